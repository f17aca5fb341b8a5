"""Names: which are reserved, and how each is spelled in each place."""

import builtins
import keyword
import re
from dataclasses import dataclass

from meshctl.core.failure import OperatorError

LONGEST = 30
_WORD = re.compile(r"[a-z][a-z0-9]*")
_WORDS = re.compile(r"[a-z][a-z0-9]*(_[a-z][a-z0-9]*)*")
_PASCAL = re.compile(r"([A-Z][a-z0-9]+){2,}")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words with a meaning of their own in protoc or its Python modules.
_PROTO = _words(
    "syntax edition import weak public package option message enum service rpc returns stream oneof map extend "
    "extensions reserved group optional required repeated double float int32 int64 uint32 uint64 sint32 sint64 "
    "fixed32 fixed64 sfixed32 sfixed64 bool string bytes true false to max inf nan google buf protomesh"
)
# Workloads, parts of the mesh, subjects and databases that exist already.
_DOMAINS = _words(
    "chassis dead developer edge envoy gen meshctl nats options postgres template0 template1 tests valkey"
)
# Names that the templates use for something else.
_NOUNS = _words(
    "call caller data database empty etag mapped mapper mesh message meta model own owner page request "
    "resource scoped self service test user uuid version work"
)
_PYTHON = frozenset((*keyword.kwlist, *keyword.softkwlist, *dir(builtins)))


@dataclass(frozen=True)
class Names:
    """A resource of a service in all spellings that templates use."""

    domain: str
    noun: str

    def values(self) -> dict[str, str]:
        """Returns the values for `string.Template`."""
        words, plural = self.noun.split("_"), self.plural
        article = "an" if self.noun[0] in "aeiou" else "a"
        return {
            "domain": self.domain,
            "Domain": self.domain.capitalize(),
            "DOMAIN": self.domain.upper(),
            "noun": self.noun,
            "Noun": self.message,
            "NOUN": self.noun.upper(),
            "Nouns": pascal(plural),
            "plural": plural,
            "noun_text": " ".join(words),
            "plural_text": plural.replace("_", " "),
            "Plural_text": plural.replace("_", " ").capitalize(),
            "article": article,
            "a_noun": f"{article} {' '.join(words)}",
            "A_noun": f"{article.capitalize()} {' '.join(words)}",
        }

    @property
    def message(self) -> str:
        """The resource's message, such as `OrderLine`."""
        return pascal(self.noun)

    @property
    def plural(self) -> str:
        """Its table, and its collection in a path, such as `order_lines`."""
        return plural_of(self.noun)


def pascal(text: str) -> str:
    return "".join(word.capitalize() for word in text.split("_"))


def snake(text: str) -> str:
    """Returns `ArchiveNote` as `archive_note`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", text).lower()


def plural_of(noun: str) -> str:
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def singular_of(name: str) -> str:
    """Returns the resource of a service with this name: `note` for `notes`, `content` for `content`."""
    if name.endswith("ies"):
        return f"{name[:-3]}y"
    if name.endswith(("sses", "xes", "ches", "shes")):
        return name[:-2]
    return name[:-1] if name.endswith("s") and not name.endswith("ss") else name


def check_domain(name: str) -> str:
    """Checks the name of a new service."""
    _check(name, _WORD, "a service is named by one word in lower case, such as `notes`")
    if name in _PROTO | _DOMAINS | _PYTHON:
        raise OperatorError(f"{name!r} is reserved: choose another name for the service.")
    return name


def check_noun(noun: str) -> str:
    """Checks the name of a new resource."""
    _check(noun, _WORDS, "a resource is named by a noun in lower case, such as `note` or `order_line`")
    if noun in _PROTO | _NOUNS | _PYTHON:
        raise OperatorError(f"{noun!r} is reserved: choose another name for the resource.")
    return noun


def check_slug(slug: str) -> str:
    """Checks the name of a new migration."""
    _check(slug, _WORDS, "a migration is named by what it does, in lower case, such as `add_colour`")
    return slug


def check_pascal(name: str, example: str) -> str:
    """Checks the name of a new RPC or event."""
    _check(name, _PASCAL, f"its name is several words, such as `{example}`")
    return name


def _check(name: str, pattern: re.Pattern[str], rule: str) -> None:
    if not pattern.fullmatch(name):
        raise OperatorError(f"{name!r} is not a name: {rule}.")
    if len(name) > LONGEST:
        raise OperatorError(f"{name!r} has {len(name)} characters; a name has at most {LONGEST}.")
