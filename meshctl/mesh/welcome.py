"""What `up` ends with: where the mesh is, who may sign in, and three things to try."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from meshctl.core.folder import DEFAULT_FOLDER, MeshFolder
from meshctl.mesh.services import ADMIN_EMAIL

ROOT = Path(__file__).parents[2]
# Returns a text in a style of rich, or as it is.
Paint = Callable[[str, str], str]
# The password goes from the file to the request, and is an argument of no program: everyone may read those.
SIGN_IN = """. {env} && printf '{{"email":"%s","password":"%s"}}' "$ADMIN_EMAIL" "$ADMIN_PASSWORD" |
    curl -s {url}/v1/users/login -d @-"""


def text(
    url: str, folder: MeshFolder, summary: str, password: str, paint: Paint = lambda text, _: text
) -> str:
    """Returns the screen; without a password, it says where that is."""
    env = shlex.quote(_near(folder.dev_env))
    data = "" if folder.root == DEFAULT_FOLDER.resolve() else f" --data {shlex.quote(_near(folder.root))}"
    secret = f"{password}  (shown this once; kept in {env})" if password else f"password in {env}"
    tries = {
        "search the catalog": f"curl -s '{url}/v1/products?search=heart&limit=3'",
        "sign in as the administrator": SIGN_IN.format(env=env, url=url),
        "see what that request did, hop by hop": f"{_near(ROOT / 'bin/meshctl')} trace{data}",
    }
    lines = [
        "",
        f"{paint('The mesh is up:', 'bold green')} {paint(url, 'bold underline')}",
        f"  {paint(summary, 'dim')}",
        f"  {paint('administrator', 'dim')}  {ADMIN_EMAIL}  {secret}",
        "",
        paint("Try it:", "bold"),
    ]
    for what, command in tries.items():
        lines += [f"  {paint('# ' + what, 'dim')}", f"  {paint(command, 'cyan')}"]
    return "\n".join([*lines, ""])


def _near(path: Path) -> str:
    """The path as it is typed here: relative when that is shorter."""
    return min(os.path.relpath(path), str(path), key=len)
