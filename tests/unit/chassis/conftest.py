import pathlib
from collections.abc import AsyncIterator, Iterator

import pytest

from chassis import contract
from chassis.observe import OtlpExport, Recorder, tracing
from tests import certificates
from tests.unit.chassis.stand import FILES, Spans, Stand, running


@pytest.fixture(scope="module", autouse=True)
def scratch_contract() -> Iterator[None]:
    """The scratch contract is part of the platform while these tests run, and of no other test's."""
    for file in FILES:
        contract.register(file)
    yield
    for file in FILES:
        contract.unregister(file)


@pytest.fixture(scope="session")
def certificate_directory(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("certificates")
    authority = certificates.issue(directory, "scratch", "edge", "ordering", "stranger")
    authority.issue(directory, "foreign", trust_domain="elsewhere.local")
    return directory


@pytest.fixture(scope="session")
def exported() -> Spans:
    return Spans()


@pytest.fixture
def spans(exported: Spans) -> Iterator[Spans]:
    """What is recorded during the test; `spans.all` is up to date after `tracing.recorder().flush()`."""
    before = tracing.recorder()
    tracing.install(Recorder(OtlpExport(exported.take, {"service.name": "scratch"})))
    exported.all.clear()
    yield exported
    tracing.install(before)


@pytest.fixture
async def stand(certificate_directory: pathlib.Path) -> AsyncIterator[Stand]:
    async with running(certificate_directory) as started:
        yield started
