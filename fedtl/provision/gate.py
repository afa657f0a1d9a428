"""
The gate before a SuperLink: the calls that a SuperNode needs, and nothing else. Whoever reaches the SuperLink itself
can start runs and register keys, for the open-source Flower asks nobody's name there.
"""

import os
import pwd
from pathlib import Path

from fedtl.provision.settings import ServerSettings

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


def configuration(folder: Path, settings: ServerSettings) -> str:
    """nginx's, complete; it runs as whoever made the folder and writes under ``gate/`` alone."""
    tls, gate, calls = folder / "tls", folder / "gate", "|".join(CALLS)
    temporary = "\n".join(
        f"  {kind}_temp_path {gate}/tmp-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = (
        f"user {pwd.getpwuid(os.getuid()).pw_name};\n" if os.getuid() == 0 else ""
    )  # or workers are "nobody"
    return f"""\
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
  client_max_body_size {BODY};
  client_body_buffer_size 6m;
  client_body_timeout 60s;
  limit_conn_zone $binary_remote_addr zone=each:1m;
  server {{
    listen {settings.listen} ssl;
    server_name {settings.host};
    ssl_certificate {tls}/server.pem;
    ssl_certificate_key {tls}/server.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    limit_conn each 64;
    location ~ ^/v1/fleet/({calls})$ {{
      limit_except POST {{ deny all; }}
      proxy_pass https://127.0.0.1:{settings.port};
      proxy_ssl_trusted_certificate {tls}/ca.crt;
      proxy_ssl_name {settings.host};
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
