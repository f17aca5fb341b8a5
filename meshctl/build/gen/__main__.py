"""`python -m meshctl.build.gen` generates files; with `--check` it only lists those that are out of date."""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from meshctl.build.gen import files, protoc

ROOT = Path(__file__).resolve().parents[3]
# Directories that the generator owns entirely: it removes every file there that it does not write.
OWNED = ["gen", "docs/reference", "sdk/python/src/protomesh_sdk/reasons"]
RELEASED = "gen/descriptors/released.binpb"


def generate(root: Path, fresh: Path) -> None:
    """Writes everything that is derived from `root`/proto below `fresh`, laid out as in the repository."""
    python, image = fresh / "gen/python", fresh / "gen/descriptors/protomesh.binpb"
    protoc.compile_contracts(root / "proto", python, image)
    if (root / RELEASED).exists():  # Replaced only at a release, never generated.
        shutil.copy(root / RELEASED, fresh / RELEASED)
    # The next steps read the contracts through the modules that were just written, not those of the previous run.
    sys.path.insert(0, str(python))
    derive(image, fresh)


def derive(image: Path, fresh: Path) -> None:
    """Writes what follows from the compiled contracts: the edge, OpenAPI, client configuration, reference pages."""
    from chassis import contract
    from meshctl.build.gen import envoy, openapi, reasons, reference, sdk_errors, settings_page
    from meshctl.build.gen.comments import Comments
    from meshctl.core import deployables, service_settings
    from meshctl.mesh.parts import nats, valkey

    comments = Comments(image)
    methods, protos = contract.platform(), contract.files()
    known = reasons.all_reasons(protos, comments)
    write(fresh / "gen/envoy/edge.yaml", envoy.render(methods))
    write(fresh / "gen/nats/users.conf", nats.users_file((nats.OPERATOR, *deployables.deployables())))
    write(fresh / "gen/valkey/users.acl", valkey.users_file((valkey.OPERATOR, *service_settings.with_valkey())))
    write(fresh / "gen/openapi/protomesh.yaml", openapi.document(methods, comments, known))
    for deployable in sorted({method.deployable for method in methods} - {""}):
        write(
            fresh / f"gen/client/{deployable}.json",
            json.dumps(contract.service_config(deployable), indent=2) + "\n",
        )
    write(fresh / "docs/reference/rpcs.md", reference.rpcs(methods, comments))
    write(fresh / "docs/reference/options.md", reference.options(protos, comments))
    write(fresh / "docs/reference/permissions.md", reference.permissions(methods))
    write(fresh / "gen/python/protomesh/permissions.py", reference.permission_constants(methods))
    write(fresh / "sdk/python/src/protomesh_sdk/reasons/__init__.py", sdk_errors.module(known.values()))
    write(fresh / "docs/reference/events.md", reference.events(protos, comments))
    write(fresh / "docs/reference/errors.md", reference.reasons(protos, comments))
    write(fresh / "docs/reference/settings.md", settings_page.page())


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def gen(
    *,
    check: Annotated[
        bool, typer.Option(help="Write nothing; fail when generated files are out of date.")
    ] = False,
) -> None:
    """Derive gen/ and docs/reference/ from the contracts."""
    act = files.drift if check else files.publish
    with files.exclusive(ROOT / ".mesh/gen.lock"), tempfile.TemporaryDirectory(dir=ROOT / ".mesh") as staging:
        try:
            generate(ROOT, Path(staging))
        except protoc.ContractError as error:
            sys.exit(f"The contracts do not compile:\n{error}")
        changed = [f"{owned}/{name}" for owned in OWNED for name in act(Path(staging, owned), ROOT / owned)]
    for name in changed:
        print(f"{'out of date' if check else 'wrote'}: {name}")
    if check and changed:
        sys.exit("Run scripts/gen and commit what it writes.")


if __name__ == "__main__":
    typer.run(gen)
