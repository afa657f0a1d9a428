"""
The gate: nginx in front of the SuperLink. It forwards the calls that a SuperNode needs and no others, because Flower's
open-source SuperLink does not authenticate its users: every program that can connect to it can start runs and
register keys.
"""

import os
import pwd
from pathlib import Path

from fedtl.deployment.coordinator.settings import ServerSettings

SUPERNODE_CALLS = (  # of flwr 1.41.0
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
MAX_BODY = "16m"  # Flower sends objects in chunks of at most 5 MiB

TEMPLATE = """\
# Written by fedtl server init and run. Forwards the calls that a SuperNode needs; every other call gets 404.
{user}daemon off;
pid {gate}/nginx.pid;
error_log stderr warn;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  server_tokens off;
{temporary}
  client_max_body_size {body};
  client_body_buffer_size 6m;
  client_body_timeout 60s;
  limit_conn_zone $binary_remote_addr zone=each:1m;
  server {{
    listen {listen} ssl;
    server_name {host};
    ssl_certificate {tls}/server.pem;
    ssl_certificate_key {tls}/server.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    limit_conn each 64;
    location ~ ^/v1/fleet/({calls})$ {{
      limit_except POST {{ deny all; }}
      proxy_pass https://127.0.0.1:{port};
      proxy_ssl_trusted_certificate {tls}/ca.crt;
      proxy_ssl_name {host};
      proxy_ssl_server_name on;
      proxy_ssl_verify on;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_request_buffering on;
      proxy_max_temp_file_size 0;
      proxy_read_timeout 120s;
    }}
    location / {{ return 404; }}
  }}
}}
"""


def nginx_configuration(folder: Path, settings: ServerSettings) -> str:
    """Return nginx's whole configuration. It runs as the user who calls this, and writes to ``gate/`` only."""
    gate = folder / "gate"
    temporary = "\n".join(
        f"  {kind}_temp_path {gate}/tmp-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Started by root without this line, nginx would run its workers as the user "nobody".
    user = f"user {pwd.getpwuid(os.getuid()).pw_name};\n" if os.getuid() == 0 else ""
    return TEMPLATE.format(
        user=user,
        gate=gate,
        temporary=temporary,
        body=MAX_BODY,
        listen=settings.listen,
        host=settings.host,
        port=settings.port,
        tls=folder / "tls",
        calls="|".join(SUPERNODE_CALLS),
    )
