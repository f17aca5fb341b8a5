"""Every command and snippet of the documentation runs, or says beside it why it is not run."""

import ast
import asyncio
import inspect
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc_tools import protoc

from chassis.core import MeshError, uuid7
from chassis.data import upgrade
from tests.mesh import Mesh
from tests.pages import ROOT, Block, blocks
from tests.repository_copy import Copy, copied
from tests.shop import fresh_key
from tests.traces import Traces

GUIDES = ("docs/add-a-service.md", "docs/add-an-rpc.md")
RUN = [block for block in blocks() if not block.not_run]
# What the pages say for what is different wherever a mesh runs.
SAMPLE_URLS = ("http://127.0.0.1:8080", "https://api.example.com")
SAMPLE_TRACE = "d32a6b561ab29802615a3eb93eca6d48"
SECONDS = 60


def those(language: str, *, guides: bool = False, page: str = "") -> list[Block]:
    return [
        block
        for block in RUN
        if block.language == language
        and (block.page in GUIDES) == guides
        and (block.page == page if page else block.page != "sdk/python/README.md")
    ]


@pytest.mark.parametrize("block", [block for block in blocks() if block.not_run], ids=str)
def test_what_is_not_run_says_why(block: Block):
    assert len(block.not_run.split()) > 3


# Commands, beside a running mesh.


@pytest.fixture(scope="module")
async def place(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as a reader has it, but for its data folder, which is that of the tests' mesh."""
    folder = tmp_path_factory.mktemp("place")
    for entry in ROOT.iterdir():
        if entry.name != ".mesh":
            (folder / entry.name).symlink_to(entry)
    (folder / ".mesh").symlink_to(mesh.folder.root)
    return folder


@pytest.fixture(scope="module")
async def samples(mesh: Mesh) -> dict[str, str]:
    """What stands in this mesh for the samples of the pages."""
    user = await mesh.sign_up()
    order = {"lines": [{"product_id": str(uuid7()), "quantity": 1}]}
    headers = user.headers | fresh_key()
    for answer in (
        await mesh.http.post("/v1/orders", json=order, headers=headers),
        await mesh.http.get("/v1/products"),
    ):
        await Traces(mesh).of(answer)
    return {**dict.fromkeys(SAMPLE_URLS, mesh.edge_url), SAMPLE_TRACE: answer.headers["trace-id"]}


def spoken(block: Block, samples: dict[str, str]) -> str:
    text = block.text
    for said, meant in samples.items():
        text = text.replace(said, meant)
    return text


@pytest.mark.parametrize("block", those("sh"), ids=str)
async def test_a_command_works(block: Block, mesh: Mesh, place: Path, samples: dict[str, str]):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PROTOMESH_")}
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        spoken(block, samples),
        cwd=place,
        env=kept,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(SECONDS):
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert '"code":' not in said.decode(), said.decode()
    await mesh.healthy()


# The guides, in a copy of the repository.


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """A copy in which the commands of both guides were run, each once."""
    with copied(tmp_path_factory.mktemp("guides")) as copy:
        commands = [line for block in those("sh", guides=True) for line in block.text.splitlines()]
        for command in dict.fromkeys(commands):
            program, *arguments = command.split()
            assert program == "bin/meshctl"
            done = copy.run("-m", "meshctl", *arguments)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        yield copy


def meaning(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def holds(path: Path, wanted: list[str]) -> bool:
    lines = meaning(path.read_text())
    return any(lines[start : start + len(wanted)] == wanted for start in range(len(lines)))


@pytest.mark.parametrize("block", those("python", guides=True) + those("proto", guides=True), ids=str)
def test_a_guide_shows_what_its_commands_make(block: Block, made: Copy):
    suffix = ".py" if block.language == "python" else ".proto"
    folders = (made.root / "services", made.root / "proto", made.root / "tests/service")
    files = [path for folder in folders for path in folder.rglob(f"*{suffix}")]
    assert any(holds(path, meaning(block.text)) for path in files)


# Contracts.


@pytest.mark.parametrize("block", those("proto"), ids=str)
def test_a_contract_compiles(block: Block, tmp_path: Path):
    messages = set(re.findall(r"[( ](\w+)\)", " ".join(re.findall(r"rpc .*", block.text))))
    text = block.text + "}\n" * (block.text.count("{") - block.text.count("}"))
    if text.lstrip().startswith("rpc"):
        text = f"service Sample {{\n{text}}}\n" + "".join(f"message {name} {{}}\n" for name in messages)
    elif "aggregate_id_field" in text:
        field = re.search(r'aggregate_id_field: "(\w+)"', text)
        assert field is not None
        text = text.rstrip().removesuffix("}") + f"string {field[1]} = 1; }}\n"
    imports = ("google/api/annotations.proto", "protomesh/options/v1/options.proto")
    head = 'syntax = "proto3";\npackage sample.v1;\n' + "".join(f'import "{name}";\n' for name in imports)
    (tmp_path / "sample.proto").write_text(head + text)
    image = ROOT / "gen/descriptors/protomesh.binpb"
    arguments = [f"-I{tmp_path}", f"--descriptor_set_in={image}", f"--descriptor_set_out={tmp_path}/out"]
    assert protoc.main(["protoc", *arguments, "sample.proto"]) == 0, text


# Python, with what a handler has at hand.


@pytest.fixture(scope="module")
async def at_hand(new_database: Any) -> AsyncIterator[dict[str, Any]]:
    """The names that snippets use without saying where they come from, over databases of catalog and projects."""
    from tests.snippets import names

    urls = {service: await new_database() for service in ("catalog", "projects")}
    for service, url in urls.items():
        await asyncio.to_thread(upgrade, service, url)
    async with names(urls) as known:
        yield known


@pytest.mark.parametrize("page", sorted({block.page for block in those("python")}))
async def test_the_snippets_of_a_page_run(page: str, at_hand: dict[str, Any]):
    namespace = dict(at_hand["everywhere"])
    for block in those("python", page=page):
        namespace |= at_hand.get(page, {})
        code = compile(block.text, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        try:
            done = eval(code, namespace)
            if inspect.isawaitable(done):
                await done
        except MeshError as error:
            if error.reason not in block.text:
                raise


# The SDK, as a program of its own.


@pytest.mark.parametrize("block", those("python", page="sdk/python/README.md"), ids=str)
async def test_a_program_over_the_sdk_runs(block: Block, mesh: Mesh, samples: dict[str, str], tmp_path: Path):
    account = {"username": "ada", "email": "ada@example.com", "password": "correct horse battery"}
    assert (await mesh.http.post("/v1/users/register", json=account)).status_code in (201, 409)
    with copied(tmp_path) as copy:
        copy.install_the_sdk()
        program = copy.root / "program.py"
        program.write_text(spoken(block, samples))
        done = await asyncio.to_thread(copy.run, str(program))
    assert done.returncode == 0, done.stderr
