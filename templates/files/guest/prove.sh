# Prove that a container runs: one made of our own static program, so that nothing has to be pulled. Then print one
# line "image REF ID BYTES DIGESTS" (tabs between) for each image named as argument; a missing one is an error.
# Environment: PROOF_NETWORK, the network of that container (bridge, or none where the daemon has none).
set -eu

proof=dorunner-proof:bake
trap 'docker image rm --force "$proof" >/dev/null 2>&1 || :' EXIT
tar -c -C /usr/local/bin -f - dorunner-firstboot | docker import - "$proof" >/dev/null
docker run --rm --network "$PROOF_NETWORK" "$proof" /dorunner-firstboot version

missing=0
for ref in "$@"; do
    if line=$(docker image inspect --format '{{.Id}}	{{.Size}}	{{range .RepoDigests}}{{.}} {{end}}' "$ref"); then
        printf 'image\t%s\t%s\n' "$ref" "$line"
    else
        echo "container image $ref is not in the machine image" >&2
        missing=1
    fi
done
exit "$missing"
