"""The edge's configuration, from `envoy/` and the contracts: what gen/envoy/edge.yaml holds."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from chassis.contract import DEFAULT_MAX_REQUEST_BYTES, MethodContract
from meshctl.build.gen import envoy_bodies, envoy_errors, envoy_routes
from meshctl.edge import placeholders

BASE = Path(__file__).resolve().parents[3] / "envoy"
HEADER = "# Generated from envoy/ and the contracts; do not edit. `meshctl edge` fills in the settings.\n"


def render(methods: Iterable[MethodContract], base: Path = BASE) -> str:
    """The edge's configuration as YAML, in which only the settings of the place where it runs are left open.

    Internal RPCs get no route: what has none cannot be reached.
    """
    exposed = [method for method in methods if method.access is not None and method.access.kind != "internal"]
    errors = envoy_errors.load(base / "errors.yaml")
    values = {
        "contract.routes": envoy_routes.routes(exposed),
        "contract.retry_unsent": envoy_routes.RETRY_UNSENT,
        "contract.services": sorted({method.service for method in exposed}),
        "contract.max_request_bytes": max(
            [DEFAULT_MAX_REQUEST_BYTES, *(m.max_request_bytes for m in exposed)]
        ),
        "contract.error_mappers": envoy_errors.mappers(errors),
        "contract.rest_lua": "\n".join(
            (envoy_bodies.table(exposed), *((base / name).read_text() for name in ("json_body.lua", "rest.lua")))
        ),
    }
    return HEADER + dump(placeholders.fill(yaml.safe_load((base / "edge.yaml").read_text()), values))


def dump(tree: Any) -> str:
    """YAML as people read it: in the order that it was written, text blocks as blocks, nothing by reference."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=110)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
