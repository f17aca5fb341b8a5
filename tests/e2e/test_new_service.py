"""A service is made from nothing in a copy of the repository: green at once, and thrown away."""

import ast
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.repository_copy import Copy, copied

BEGINNINGS = Path(__file__).parent / "beginnings"
# What looks at every service, and the new one's own.
CONCERNED = (
    "tests/service/notes",
    "tests/service/test_refusals.py",
    "tests/contract",
    "tests/unit/test_compose.py::test_every_deployable_has_a_container_that_is_probed",
    "tests/unit/test_compose.py::test_every_service_is_a_user_of_its_own_in_nats_and_valkey",
    "tests/unit/test_compose.py::test_nats_and_valkey_have_the_users_that_the_contracts_make",
    "tests/unit/test_compose.py::test_a_service_with_a_database_waits_for_its_migrations",
    "tests/e2e/test_sdk.py::test_the_sdk_offers_every_service_that_the_edge_exposes",
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    with copied(tmp_path_factory.mktemp("copy")) as made:
        yield made


@pytest.fixture(scope="module")
def notes(copy: Copy) -> Copy:
    """The copy with a service of notes."""
    made = copy.new("service", "notes")
    assert made.returncode == 0, made.stdout + made.stderr
    return copy


def lines_of(source: str, *, without: Sequence[str] = ()) -> int:
    """Lines of code: without blank ones, comments, docstrings, and what has one of these names."""
    lines = source.splitlines()
    counted = {
        number
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.lstrip().startswith("#") and line.strip(" ,") not in without
    }
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        said = node.body[0] if ast.get_docstring(node) is not None else None
        left_out = node if getattr(node, "name", "") in without else said
        if isinstance(left_out, ast.stmt):
            counted -= set(range(left_out.lineno, (left_out.end_lineno or 0) + 1))
    return len(counted)


def test_four_rpcs_with_a_subscriber_elsewhere_take_at_most_80_lines_of_python(notes: Copy):
    """Create, get, list and delete, with their events, model, migration and start; another service reacts to one."""
    files = [*(notes.root / "services/notes").rglob("*.py"), BEGINNINGS / "subscribers.py"]
    update = ("UpdateNote", "UpdateNoteRequest")
    lines = {path.name: lines_of(path.read_text(), without=update) for path in files}
    # In the subscriber's service: an import, and the line that subscribes.
    assert sum(lines.values()) + 2 <= 80, lines


HOSTILE = [
    ("service", "projects"),
    ("service", "Notes"),
    ("service", "note-book"),
    ("service", "../notes"),
    ("service", "class"),
    ("service", "message"),
    ("service", "edge"),
    ("service", "dead"),
    ("service", "postgres"),
    ("service", "n" * 31),
    ("service", ""),
    ("service", "ledger", "--resource", "project"),
    ("service", "ledger", "--resource", "call"),
    ("service", "ledger", "--resource", "print"),
    ("resource", "nowhere", "note"),
    ("resource", "../../etc", "note"),
    ("resource", "projects", "project"),
    ("resource", "projects", "task; rm"),
    ("rpc", "projects", "archiveProject"),
    ("rpc", "projects", "ArchiveOrder"),
    ("rpc", "projects", "Project"),
    ("rpc", "projects", "ArchiveProject"),
    ("event", "projects", "ProjectCreated"),
    ("event", "projects", "OrderShared"),
    ("event", "projects", "Project.Shared"),
    ("migration", "projects", "1"),
    ("migration", "projects", "a/b"),
    ("migration", "observatory", "add_colour"),
]


@pytest.mark.parametrize("arguments", HOSTILE, ids=" ".join)
def test_what_cannot_be_made_is_refused_with_a_sentence_and_nothing_is_written(
    copy: Copy, arguments: tuple[str, ...]
):
    before = copy.files()
    refused = copy.new(*arguments)
    assert refused.returncode == 1, refused.stdout
    [sentence] = refused.stderr.splitlines()
    assert sentence[0] != " "
    assert sentence.endswith(".")
    assert copy.files() == before


def test_what_is_made_is_green_at_once_and_serves_beside_the_others(notes: Copy):
    steps = [
        ("resource", "notes", "reading_list"),
        ("rpc", "notes", "ArchiveNote"),
        ("event", "notes", "NoteShared"),
        ("migration", "notes", "add_colour"),
        ("event", "projects", "ProjectStarred"),
        ("migration", "projects", "add_colour"),
    ]
    for step in steps:
        made = notes.new(*step)
        assert made.returncode == 0, made.stdout + made.stderr
    subscribe(notes.root)
    generated = notes.run("-m", "meshctl.build.gen")
    assert generated.returncode == 0, generated.stdout + generated.stderr
    checked = notes.run("-m", "meshctl.build.lint")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    notes.install_the_sdk()
    shutil.copy(BEGINNINGS / "together.py", notes.root / "tests/service/notes/test_together.py")
    tested = notes.run("-m", "pytest", "-q", "-x", *CONCERNED)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def subscribe(root: Path) -> None:
    """What a person writes so that projects reacts to notes."""
    shutil.copy(BEGINNINGS / "subscribers.py", root / "services/projects")
    main = root / "services/projects/__main__.py"
    text = main.read_text()
    for line, before in (
        ("from protomesh.notes.v1.notes_events_pb2 import NoteCreated\n", "\nfrom chassis.service"),
        ("from services.projects import subscribers\n", "from services.projects.people"),
        (
            '    service.subscribe("projects.notes", {NoteCreated: subscribers.start_project})\n',
            "\n\nif __name__",
        ),
    ):
        text = text.replace(before, line + before, 1)
    main.write_text(text)
    events = root / "proto/protomesh/notes/v1/notes_events.proto"
    declared = '    aggregate_id_field: "note_id"\n'
    text = events.read_text().replace(declared, declared + '    subscribers: ["projects.notes"]\n', 1)
    events.write_text(text)
