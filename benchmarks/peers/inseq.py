"""attriflow against Inseq, captum's classes for language models and Interpreto: time, memory, agreement.

``python benchmarks/peers/inseq.py [--shapes gpt2-small,bart-base,toy,toy-bart] [--methods ...] [--peers inseq]``;
see README.md beside this file.
"""

from __future__ import annotations

import sys

from compare import main

if __name__ == "__main__":
    sys.exit(main(description=__doc__.split("\n", 1)[0]))
