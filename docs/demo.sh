#!/usr/bin/env bash
# From a volume to a registered AMI and back, all on this machine: `make demo`.
#
# ministack stands in for S3 and EC2, temporary keys for yours and EC2's. At the end openssl, gzip, tar and cmp check
# that the bundle holds the volume. All files are in a temporary directory that is removed at the end, and only processes
# that were started here are stopped. With KEEP=1 ministack and the daemon keep running until Ctrl-C, for commands in
# another terminal.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PATH="$root/.venv/bin:$PATH:/usr/sbin:/sbin"
python="$root/.venv/bin/python"
ministack="$root/.venv-ministack/bin/ministack"

account=123456789012
region=eu-west-1
volume_mib=400
content_mib=280
patience_s=60

work=$(mktemp -d "${TMPDIR:-/tmp}/amistream-demo.XXXXXX")
cd "$work"
ministack_pid=
daemon_pid=

main() {
    settle_environment
    make_volume
    make_keys
    start_ministack
    make_bucket
    start_daemon
    bundle
    describe
    prove
    [[ -z ${KEEP:-} ]] || keep
}

# Use no AWS settings of this machine.
settle_environment() {
    local name
    for name in $(compgen -e); do
        case $name in AWS_* | EC2_* | AMISTREAM_*) unset "$name" ;; esac
    done
    # ministack takes a key of twelve digits as the account of the caller.
    export AWS_ACCESS_KEY_ID=$account AWS_SECRET_ACCESS_KEY=demo
    export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_EC2_METADATA_DISABLED=true
    export no_proxy=127.0.0.1 NO_PROXY=127.0.0.1
    umask 077
}

make_volume() {
    step "A volume: ext4, $volume_mib MiB, with files of this machine"
    # Readable files of /usr (and of this project's environment, if a small system has too few) up to content_mib;
    # large ones, because mke2fs takes a millisecond for each.
    { (cd / && find usr "${root#/}/.venv" -xdev -type f -readable -size +32k -size -16384k ! -name $'*\n*' \
        -printf '%s %p\n' 2>/dev/null) || true; } |
        awk -v most=$((content_mib << 20)) '{
            if (total + $1 > most) next
            total += $1
            sub(/^[0-9]+ /, "")
            print
        }' >files.txt
    mkdir content
    tar -C / -T files.txt -cf - | tar -C content --no-same-owner -xf -
    show mke2fs -q -t ext4 -m 0 -L demo -d content volume.img "${volume_mib}M"
    echo "$(wc -l <files.txt) files, $(du -sm volume.img | cut -f1) MiB of the volume in use"
    rm -rf content
}

make_keys() {
    step "Temporary keys: yours, which sign the bundle and can open it again, and a replacement for EC2's"
    show openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=you -keyout pk.pem -out cert.pem
    show openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=ec2 -keyout ec2-pk.pem -out ec2-cert.pem
}

start_ministack() {
    step "S3 and EC2 on this machine"
    echo "\$ ministack &"
    # On a free port of the loopback interface, without its other listeners and without containers. Like the daemon in
    # its own session: Ctrl-C goes to this script only, which then stops both in order.
    BIND_HOST=127.0.0.1 GATEWAY_PORT=0 MINISTACK_REGION=$region SFTP_ENABLED=0 IOT_MTLS_ENABLED=0 \
        STATE_DIR="$work/ministack" S3_DATA_DIR="$work/ministack/s3" TMPDIR="$work" \
        DOCKER_HOST="unix://$work/no-docker.sock" setsid "$ministack" >ministack.log 2>&1 </dev/null &
    ministack_pid=$!
    wait_until "$ministack_pid" ministack_url
    endpoint=$(ministack_url)
    echo "listening on $endpoint"
}

ministack_url() {
    grep -o -m1 'http://127\.0\.0\.1:[0-9]*' <(grep 'Running on http' ministack.log)
}

make_bucket() {
    bucket=demo-$(openssl rand -hex 4)
    step "A bucket with ACLs enabled: EC2 reads a bundle through its ACL"
    echo "with the AWS CLI: aws s3api create-bucket --bucket $bucket --object-ownership BucketOwnerPreferred \\"
    echo "    --create-bucket-configuration LocationConstraint=$region"
    wait_until "$ministack_pid" create_bucket
}

create_bucket() {
    ask s3 >bucket.log 2>&1 <<'PYTHON'
client.create_bucket(
    Bucket=bucket,
    CreateBucketConfiguration={"LocationConstraint": region},
    ObjectOwnership="BucketOwnerPreferred",
)
PYTHON
}

start_daemon() {
    step "The daemon"
    cat >demo.toml <<TOML
log_format = "text"
endpoint_url = "$endpoint"
on_stop = "cancel"
register_poll_s = 0.2
TOML
    show cat demo.toml
    echo "\$ amistreamd --config demo.toml --socket amistream.sock --state-dir state &"
    setsid amistreamd --config demo.toml --socket amistream.sock --state-dir state >amistreamd.log 2>&1 </dev/null &
    daemon_pid=$!
    wait_until "$daemon_pid" amistream_answers
    show amistream jobs --socket amistream.sock
}

amistream_answers() {
    amistream jobs --socket amistream.sock >/dev/null 2>&1
}

bundle() {
    step "Bundle, upload and register, in one pass (this volume holds files and no system: a note says that it cannot boot)"
    show amistream bundle volume.img --to "s3://$bucket/images" --socket amistream.sock \
        --cert cert.pem --private-key pk.pem --ec2-cert ec2-cert.pem \
        --account $account --ami-name demo-1 --endpoint-url "$endpoint" | tee result.txt
    ami=$(grep -oE -m1 'ami-[0-9a-f]{17}' result.txt)
    [[ $ami == ami-* ]]
}

describe() {
    step "The AMI in EC2 (DescribeImages)"
    ask ec2 "$ami" <<'PYTHON'
(image,) = client.describe_images(ImageIds=[arguments[0]])["Images"]
for name in ("ImageId", "Name", "State", "RootDeviceType", "Architecture", "VirtualizationType"):
    print(f"{name:<20}{image.get(name)}")
if image["RootDeviceType"] != "instance-store" or image["State"] != "available":
    sys.exit("this is not an available instance store-backed AMI")
PYTHON
}

# shellcheck disable=SC2016 # prints commands with the names of the variables
prove() {
    local key iv parts
    step "The volume again, by other programs: download, decrypt, decompress, unpack, compare"
    mkdir bundle
    ask s3 <<'PYTHON'
listing = client.list_objects_v2(Bucket=bucket, Prefix="images/")["Contents"]
for entry in listing:
    data = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
    Path("bundle", Path(entry["Key"]).name).write_bytes(data)
print(f"{len(listing)} objects, {sum(entry['Size'] for entry in listing) / 2**20:.1f} MiB, from s3://{bucket}/images")
PYTHON
    echo '$ openssl pkeyutl -decrypt -inkey pk.pem < user_encrypted_key     # of the manifest; gives $key'
    key=$(unwrap user_encrypted_key)
    echo '$ openssl pkeyutl -decrypt -inkey pk.pem < user_encrypted_iv      # gives $iv'
    iv=$(unwrap user_encrypted_iv)
    mapfile -t parts < <(grep -o '<filename>[^<]*' bundle/image.manifest.xml | sed 's/.*>//')
    echo '$ cat bundle/image.part.* | openssl enc -d -aes-128-cbc -K $key -iv $iv | gzip -d | tar -xO | cmp - volume.img'
    # -K shows the key to every user of the machine while openssl runs. Do not use it for a bundle that is kept.
    (cd bundle && cat "${parts[@]}") | openssl enc -d -aes-128-cbc -K "$key" -iv "$iv" | gzip -dc | tar -xOf - |
        cmp - volume.img
    echo
    echo "$ami"
    echo "volume identical"
}

# unwrap ELEMENT: decrypt a wrapped secret of the manifest with the user's private key; gives 32 hex digits.
unwrap() {
    printf '%b' "$(sed "s/.*<$1[^>]*>\([0-9a-f]*\)<.*/\1/; s/../\\\\x&/g" bundle/image.manifest.xml)" |
        openssl pkeyutl -decrypt -inkey pk.pem
}

# Wait for Ctrl-C, which is success here; if ministack or the daemon ends by itself, that is a failure.
keep() {
    trap 'exit 0' INT TERM
    step "S3, EC2 and the daemon run until Ctrl-C; then all of this is deleted. In another terminal:"
    cat <<LINES
demo=$(printf %q "$work")
export PATH=$(printf %q "$root/.venv/bin"):\$PATH
export AWS_ACCESS_KEY_ID=$account AWS_SECRET_ACCESS_KEY=demo AWS_REGION=$region AWS_DEFAULT_REGION=$region
export AWS_ENDPOINT_URL=$endpoint AMISTREAM_ENDPOINT_URL=$endpoint no_proxy=127.0.0.1
export AMISTREAM_SOCKET="\$demo/amistream.sock" EC2_CERT="\$demo/cert.pem" EC2_PRIVATE_KEY="\$demo/pk.pem"
export AMISTREAM_STATE_DIR="\$demo/in-process"
amistream bundle "\$demo/volume.img" --to s3://$bucket/again --ec2-cert "\$demo/ec2-cert.pem"
amistream verify --deep s3://$bucket/again/image.manifest.xml
LINES
    wait -n "$ministack_pid" "$daemon_pid" || true
    echo "ministack or the daemon has ended by itself" >&2
    return 1
}

# ask SERVICE [ARGUMENT...]: run the Python on standard input with a client of SERVICE on ministack.
ask() {
    local service=$1
    shift
    {
        cat <<'PYTHON'
import sys
from pathlib import Path

import botocore.session

service, endpoint, region, bucket, *arguments = sys.argv[1:]
client = botocore.session.get_session().create_client(service, region_name=region, endpoint_url=endpoint)
PYTHON
        cat
    } | "$python" - "$service" "$endpoint" "$region" "$bucket" "$@"
}

step() {
    echo
    echo "== $1"
}

# show COMMAND...: print a command as typed in a shell, a long one with one option per line, then run it.
show() {
    local line="$*"
    (($# < 8)) || line=${line// --/$' \\\n    --'}
    echo "\$ $line"
    # The output of openssl while it makes keys does not help.
    if [[ $1 == openssl ]]; then
        "$@" 2>openssl.log || { cat openssl.log >&2 && return 1; }
    else
        "$@"
    fi
}

# wait_until PID COMMAND: wait until COMMAND succeeds, while PID runs, for patience_s at most.
wait_until() {
    local deadline=$((SECONDS + patience_s))
    until "$2" >/dev/null; do
        if ! kill -0 "$1" 2>/dev/null || ((SECONDS >= deadline)); then
            echo "$2: not within $patience_s s" >&2
            return 1
        fi
        sleep 0.1
    done
}

stop() {
    local pid=$1 deadline=$((SECONDS + 10))
    kill "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null; do
        ((SECONDS < deadline)) || kill -KILL "$pid" 2>/dev/null || true
        sleep 0.05
    done
}

clean_up() {
    local status=$?
    trap - EXIT
    trap '' INT TERM HUP
    set +e
    # The daemon first: it needs ministack to remove the parts of an unfinished job.
    for pid in $daemon_pid $ministack_pid; do stop "$pid"; done 2>/dev/null
    if ((status != 0 && status < 128)); then
        for log in ministack.log bucket.log amistreamd.log; do
            [[ -s $work/$log ]] && printf '\n-- the end of %s\n' "$log" && tail -n 20 "$work/$log"
        done >&2
        printf '\nthe demo failed (status %s)\n' "$status" >&2
    fi
    cd /
    rm -rf "$work"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

main
