"""The edge's configuration (gen/envoy/edge.yaml), derived from `envoy/` and the contracts."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from chassis.contract import DEFAULT_MAX_REQUEST_BYTES, MethodContract
from meshctl.build.gen import envoy_bodies, envoy_errors, envoy_gates, envoy_matcher, envoy_routes
from meshctl.edge import placeholders

BASE = Path(__file__).resolve().parents[3] / "envoy"
HEADER = "# Generated from envoy/ and the contracts; do not edit. `python -m meshctl.edge` fills in the settings.\n"


def render(methods: Iterable[MethodContract], base: Path = BASE) -> str:
    """Returns the edge's configuration as YAML, with placeholders only for the settings of a deployment.

    Internal RPCs get no route, so the edge cannot reach them.
    """
    exposed = [method for method in methods if method.access is not None and method.access.kind != "internal"]
    errors = envoy_errors.load(base / "errors.yaml")
    values = {
        "contract.matcher": envoy_matcher.matcher(envoy_routes.routes(exposed)),
        "contract.gates": envoy_gates.filters(exposed),
        # In percent of a service's workers: one of them is enough.
        "contract.wanted_workers": {name: {"value": 1} for name in sorted({m.deployable for m in exposed})},
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
    """Returns readable YAML: keys in the order in which they were written, text blocks as blocks, no references."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=110)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
