"""
The gate before a SuperLink: the calls that a SuperNode needs, and nothing else. Whoever reaches the SuperLink itself
can start runs and register keys, for the open-source Flower asks nobody's name there.
"""

import os
import pwd
from pathlib import Path

from fedtl.deployment.coordinator.settings import ServerSettings

CALLS = (  # of flwr 1.41.0's SuperNode
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
BODY = "16m"  # Flower's objects are chunks of at most 5 MiB

TEMPLATE = """\
# Made by fedtl server init. Only what a SuperNode needs gets through; everything else is 404.
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


def configuration(folder: Path, settings: ServerSettings) -> str:
    """nginx's, complete; it runs as whoever made the folder and writes under ``gate/`` alone."""
    gate = folder / "gate"
    temporary = "\n".join(
        f"  {kind}_temp_path {gate}/tmp-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = (
        f"user {pwd.getpwuid(os.getuid()).pw_name};\n" if os.getuid() == 0 else ""
    )  # or workers are "nobody"
    return TEMPLATE.format(
        user=user,
        gate=gate,
        temporary=temporary,
        body=BODY,
        listen=settings.listen,
        host=settings.host,
        port=settings.port,
        tls=folder / "tls",
        calls="|".join(CALLS),
    )
