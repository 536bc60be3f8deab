"""The files that two clouds give their users, `eucarc` and `ec2rc.sh`, are sourced unchanged before an old command."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.buckets import download_bundle
from support.proxy import Answer, Fault
from support.referee import check_bundle
from support.volumes import random_image

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing

EUCARC = """\
EUCA_KEY_DIR=$(cd $(dirname ${BASH_SOURCE:-$0}); pwd -P)
export EC2_URL=URL/services/compute
export S3_URL=URL/services/objectstorage
export EUARE_URL=URL/services/Euare
export TOKEN_URL=URL/services/Tokens
export EUSTORE_URL=http://emis.eucalyptus.com/
export EC2_PRIVATE_KEY=${EUCA_KEY_DIR}/euca2-admin-1234-pk.pem
export EC2_CERT=${EUCA_KEY_DIR}/euca2-admin-1234-cert.pem
export EC2_JVM_ARGS=-Djavax.net.ssl.trustStore=${EUCA_KEY_DIR}/jssecacerts
export EUCALYPTUS_CERT=${EUCA_KEY_DIR}/cloud-cert.pem
export EC2_ACCOUNT_NUMBER='000123456789'
export EC2_ACCESS_KEY='ACCESS'
export EC2_SECRET_KEY='SECRET'
export AWS_ACCESS_KEY='ACCESS'
export AWS_SECRET_KEY='SECRET'
export AWS_CREDENTIAL_FILE=${EUCA_KEY_DIR}/iamrc
export EC2_USER_ID='000123456789'
alias ec2-bundle-image="ec2-bundle-image --cert ${EC2_CERT} --privatekey ${EC2_PRIVATE_KEY} --user 000123456789"
alias ec2-upload-bundle="ec2-upload-bundle -a ${EC2_ACCESS_KEY} -s ${EC2_SECRET_KEY} --url ${S3_URL}"
"""
EC2RC = """\
#!/bin/bash
NOVARC=$(readlink -f "${BASH_SOURCE:-${0}}" 2>/dev/null) || NOVARC=$(pwd)/ec2rc.sh
NOVA_KEY_DIR=${NOVARC%/*}
export EC2_ACCESS_KEY=ACCESS
export EC2_SECRET_KEY=SECRET
export EC2_URL=http://127.0.0.1:8773/services/Cloud
export EC2_USER_ID=42 # nova does not use user id, but bundling requires it
export EC2_PRIVATE_KEY=${NOVA_KEY_DIR}/pk.pem
export EC2_CERT=${NOVA_KEY_DIR}/cert.pem
export NOVA_CERT=${NOVA_KEY_DIR}/cacert.pem
export EUCALYPTUS_CERT=${NOVA_CERT} # euca-bundle-image seems to require this set
export S3_URL=URL
alias ec2-bundle-image="ec2-bundle-image --cert $EC2_CERT --privatekey $EC2_PRIVATE_KEY --user 42 --ec2cert $NOVA_CERT"
alias ec2-upload-bundle="ec2-upload-bundle -a $EC2_ACCESS_KEY -s $EC2_SECRET_KEY --url $S3_URL --ec2cert $NOVA_CERT"
"""


LESS = [
    Fault(action=Answer(status=501, code="NotImplemented"), method="GET", query="ownership", times=None),
    Fault(action=Answer(status=200, code="OK"), method="HEAD", path="/[^/]+/?", times=None),
]
"""Neither cloud knows ownership controls, nor the region of a bucket."""
EUCA_NAMES = ("euca2-admin-1234-cert", "euca2-admin-1234-pk", "cloud-cert")


@pytest.mark.parametrize(
    ("text", "base", "names", "account", "options"),
    [
        (EUCARC, "/services/objectstorage", EUCA_NAMES, "000123456789", ""),
        (EC2RC, "", ("cert", "pk", "cacert"), "42", "--region RegionOne"),
    ],
    ids=["eucarc", "ec2rc"],
)
def test_the_file_of_a_cloud(
    text: str,
    base: str,
    names: tuple[str, str, str],
    account: str,
    options: str,
    moto_server: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    key_ring: KeyRing,
    tmp_path: Path,
) -> None:
    """Keys, addresses with a path, ids and certificates are those of the file; the bundle is for that cloud."""
    proxy = make_proxy(moto_server, *LESS)
    root, proxy.base = proxy.url, base
    for name, path in zip(names, (key_ring.user.certificate, key_ring.user.key, key_ring.ec2.certificate), strict=True):
        shutil.copy(path, tmp_path / f"{name}.pem")
        (tmp_path / f"{name}.pem").chmod(0o600)
    for word, value in {"ACCESS": moto_server.access_key, "SECRET": moto_server.secret_key, "URL": root}.items():
        text = re.sub(rf"(?<=['=]){word}(?=['\n/])", value, text)
    (tmp_path / "rc").write_text(text)
    (tmp_path / "iamrc").write_text(f"AWSAccessKeyId={moto_server.access_key}\nAWSSecretKey={moto_server.secret_key}\n")
    image, bucket = random_image(tmp_path / "image.img", 300_000), make_bucket(moto_server)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "EC2_"))}
    environ |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AMISTREAM_STATE_DIR": str(tmp_path / "state"),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }
    command = f". ./rc && euca-bundle-and-upload-image -i image.img -b {bucket}/x -r x86_64 {options}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "certificate" not in done.stderr
    download_bundle(moto_server, bucket, "x/", tmp_path / "stored")
    found = check_bundle(tmp_path / "stored", image, key_ring.user.key, key_ring.user.certificate)
    assert found.account == account
