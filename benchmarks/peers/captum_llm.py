"""attriflow against captum's classes for language models only; needs no other environment.

``python benchmarks/peers/captum_llm.py [--shapes gpt2-small,toy] [--methods ...]``; see README.md beside this file.
"""

from __future__ import annotations

import sys

from compare import main

if __name__ == "__main__":
    sys.exit(main(peers=("captum",), description=__doc__.split("\n", 1)[0]))
