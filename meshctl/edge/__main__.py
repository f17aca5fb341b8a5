"""`python -m meshctl.edge DIRECTORY`: writes what Envoy reads in a container, where there is no supervisor."""

import sys
from pathlib import Path

from meshctl.edge.rendering import EdgeSettings, write

if __name__ == "__main__":
    print(write(EdgeSettings(), Path(sys.argv[1])))
