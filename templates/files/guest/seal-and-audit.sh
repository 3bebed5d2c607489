# Seal the machine, then audit it, in one process: the seal takes away the rule by which whoever runs this became root,
# so nothing can be run as root after it.
#   seal-and-audit.sh SEAL AUDIT   the texts of seal.sh and audit.sh
# Standard input goes to the audit. Prints what the two print, a line "audit" between them.
# Environment: as theirs, and POWEROFF (1: switch off at the end, for a seal that runs detached).
set -eu

/bin/sh -c "$1" seal.sh </dev/null
echo audit
/bin/sh -c "$2" audit.sh
if [ "${POWEROFF:-}" = 1 ]; then systemctl poweroff --no-block; fi
