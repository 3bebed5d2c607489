#!/bin/sh
# Tells this machine which runner it is, and starts first boot, which may have looked before.
set -eu
umask 077
mkdir -p "$(dirname '{{.File}}')"
base64 -d >'{{.File}}.new' <<'END'
{{.Content}}
END
mv '{{.File}}.new' '{{.File}}'
systemctl restart --no-block dorunner-firstboot.service
