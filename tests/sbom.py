"""The software bill of materials, in CycloneDX: the program as it was built, the shared libraries that it names, the
demonstration model, and the Python packages that the exporter, the tests and the benchmarks are pinned to.

It is made when it is asked for, because the hashes of program and source are those of this very build.

As a program: python tests/sbom.py [OUT]        build/sbom.json if left out; no dates: the same build gives the same bytes
"""

import hashlib
import json
import os
import re
import subprocess
import sys

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RUN = os.path.join(ROOT, "build", "run")
MODEL = os.path.join("models", "demo", "demo.smol")
# Who uses the packages of a file: the exporter is optional, for a model file can come from elsewhere; the others make no product.
REQUIREMENTS = {
    "export/requirements.txt": ("exporter", ComponentScope.OPTIONAL),
    "export/smollm2.txt": ("make chat", ComponentScope.OPTIONAL),
    "requirements.txt": ("tests", ComponentScope.EXCLUDED),
    "bench/requirements.txt": ("benchmarks", ComponentScope.EXCLUDED),
}


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digest(path):
    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256(path))]


def pins(path):
    """The packages that a requirements file pins."""
    with open(os.path.join(ROOT, path)) as f:
        text = f.read().replace("\\\n", " ")
    lines = [re.sub(r"(^|\s)(#|--hash=).*", "", line).strip() for line in text.splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-")]
    for r in found:
        assert [s.operator for s in r.specifier] == ["=="], f"{path}: {r} is not pinned"
    return found


def libraries():
    """Name and file of each shared library that the program names."""
    said = subprocess.run(["readelf", "-d", RUN], capture_output=True, text=True, check=True).stdout
    where = subprocess.run(["ldd", RUN], capture_output=True, text=True, check=True).stdout
    files = dict(re.findall(r"(\S+) => (/\S+)", where))
    return [(name, files[name]) for name in re.findall(r"\(NEEDED\).*\[(.*)\]", said)]


def program():
    said = subprocess.run([RUN, "--version"], capture_output=True, text=True, check=True).stdout
    version, source = re.fullmatch(r"smol (\S+), source sha256 (\S+)\n", said).groups()
    return Component(name="smol.c", bom_ref="smol.c", type=ComponentType.APPLICATION, version=version, hashes=digest(RUN),
                     licenses=[LicenseExpression("MIT")], properties=[Property(name="smol:source_sha256", value=source)])


def model():
    said = subprocess.run([RUN, MODEL, "--info"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    known_by = re.search("model sha256 ([0-9a-f]{64})", said).group(1)
    return Component(name=MODEL, bom_ref=MODEL, type=ComponentType.MACHINE_LEARNING_MODEL, hashes=digest(os.path.join(ROOT, MODEL)),
                     properties=[Property(name="smol:model_sha256", value=known_by)])


def package(requirement, used_by, scope):
    version = next(iter(requirement.specifier)).version
    purl = PackageURL("pypi", name=requirement.name, version=version)
    return Component(name=requirement.name, version=version, purl=purl, bom_ref=f"{purl} ({used_by})", scope=scope,
                     type=ComponentType.LIBRARY, properties=[Property(name="smol:used_by", value=used_by)])


def make():
    """The bill as JSON. Without a serial number and a time, which would be others each time."""
    main = program()
    used = [Component(name=name, bom_ref=name, type=ComponentType.LIBRARY, scope=ComponentScope.REQUIRED, hashes=digest(path))
            for name, path in libraries()]
    bom = Bom(components=[*used, model(), *(package(r, *how) for path, how in REQUIREMENTS.items() for r in pins(path))])
    bom.metadata.component = main
    bom.register_dependency(main, used)
    made = json.loads(JsonV1Dot6(bom).output_as_string())
    del made["serialNumber"], made["metadata"]["timestamp"]
    return json.dumps(made, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build", "sbom.json")
    with open(out, "w") as f:
        f.write(make())
    print(f"{os.path.relpath(out)}: sha256 {sha256(out)}")
