"""
The gate: nginx in front of the SuperLink. It forwards the calls that a SuperNode needs and no others, because Flower's
open-source SuperLink does not authenticate its users: every program that can connect to it can start runs and
register keys. It reads no body of a request without the public key of an admitted site; the SuperLink checks the signature. What
it forwards is limited by key and not by address, because several sites can have one address.
"""

import os
import pwd
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

from fedtl.deployment.coordinator.admitted import AdmittedSite
from fedtl.deployment.coordinator.reply_size import ReplySize
from fedtl.deployment.coordinator.settings import ServerSettings
from fedtl.deployment.site.gate import NOT_ADMITTED
from fedtl.deployment.site.keys import public_key_pem
from fedtl.errors import ConfigError

SMALL_CALLS = (  # of flwr 1.42.0: whose bodies have a few hundred bytes
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "get-run",
    "get-fab",
    "pull-object",
    "confirm-message-received",
)
SUPERNODE_CALLS = (*SMALL_CALLS, "push-messages", "push-object")
SMALL_BODY = 16 << 10
KEEP_ALIVE_SECONDS = (
    4  # of an idle connection to the SuperLink, which closes it after 5; a new one costs a TLS handshake
)

TEMPLATE = """\
# Written by fedtl server init and run. Forwards the calls that a SuperNode needs; every other call gets 404.
{user}daemon off;
pid "{gate}/nginx.pid";
error_log stderr warn;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  server_tokens off;
{temporary}
  default_type text/plain;
  client_header_timeout 15s;
  client_body_timeout 15s;
  map_hash_bucket_size 1024;
  map $http_flwr_public_key $site {{
    default "";
{sites}  }}
  limit_req_zone $site zone=calls:1m rate=200r/s;
  limit_conn_zone $site zone=each:1m;
  limit_conn_zone $site zone=large:1m;
  limit_conn_status 503;
  limit_req_status 503;
  limit_req_log_level warn;
  upstream superlink {{
    server 127.0.0.1:{port};
    keepalive 64;
    keepalive_timeout {keep_alive}s;
  }}
  server {{
    listen {listen} ssl;
    server_name {host};
    ssl_certificate "{tls}/server.pem";
    ssl_certificate_key "{tls}/server.key";
    ssl_protocols TLSv1.2 TLSv1.3;
    proxy_ssl_trusted_certificate "{tls}/ca.crt";
    proxy_ssl_name {host};
    proxy_ssl_server_name on;
    proxy_ssl_verify on;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_request_buffering on;
    proxy_max_temp_file_size 0;
    proxy_read_timeout 120s;
{locations}    location / {{ return 404; }}
  }}
}}
"""
LOCATION = """\
    location ~ ^/v1/fleet/({calls})$ {{
      if ($site = "") {{ return 401 "{not_admitted}\\n"; }}
      limit_except POST {{ deny all; }}
      limit_req zone=calls burst=1000 delay=500;
      limit_conn {zone} {at_once};
      client_max_body_size {body};
      client_body_buffer_size {body};
      proxy_pass https://superlink;
    }}
"""


def nginx_configuration(
    folder: Path, settings: ServerSettings, sites: Mapping[str, AdmittedSite], reply: ReplySize
) -> str:
    """
    Return nginx's whole configuration. It runs as the user who calls this, and writes to ``gate/`` only. ``sites``: whose keys
    may pass, once they are registered. ``reply``: the largest reply of a site. Raises ConfigError for a folder whose path nginx cannot read.
    """
    check_path(folder)
    gate = folder / "gate"
    temporary = "\n".join(
        f'  {kind}_temp_path "{gate}/tmp-{kind}";'
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Started by root without this line, nginx would run its workers as the user "nobody".
    user = f"user {pwd.getpwuid(os.getuid()).pw_name};\n" if os.getuid() == 0 else ""
    return TEMPLATE.format(
        user=user,
        gate=gate,
        temporary=temporary,
        sites="".join(_site_line(name, site) for name, site in sites.items() if site.node),
        locations="".join(
            LOCATION.format(
                calls=calls,
                zone=zone,
                at_once=at_once,
                body=body,
                not_admitted=NOT_ADMITTED,
            )
            for calls, zone, at_once, body in (
                ("|".join(SMALL_CALLS), "each", 32, SMALL_BODY),
                ("push-messages", "large", 4, reply.record),
                ("push-object", "large", 4, reply.object),  # Flower sends two at once
            )
        ),
        listen=settings.listen,
        port=settings.port,
        keep_alive=KEEP_ALIVE_SECONDS,
        host=settings.host,
        tls=folder / "tls",
    )


def check_path(folder: Path) -> None:
    """Raise ConfigError for a folder that nginx's configuration cannot name ($ is a variable there), or Flower's name of a database (? ends it)."""
    odd = sorted({each for each in str(folder.absolute()) if each in '"$?\\' or not each.isprintable()})
    if odd:
        raise ConfigError(
            f"{str(folder.absolute())!r} has {odd[0]!r} in its path, which nginx and Flower read as something else; choose another folder"
        )


def _site_line(name: str, site: AdmittedSite) -> str:
    """Return the line of the map from the header that a SuperNode sends to the site's name; "" for a key that is none."""
    try:
        key = b64encode(public_key_pem(site.key)).decode()
    except ConfigError:  # register_sites logs it
        return ""
    return f'    "{key}" "{name}";\n'
