"""Kind of shards -> its reader."""

from __future__ import annotations

from collections.abc import Mapping

from manifests.kinds import PAIRS, SEQUENCES, TOKENS
from train.data.readers import PairReader, Reader, SequenceReader
from train.data.token_reader import TokenReader

READERS: Mapping[str, type[Reader]] = {PAIRS: PairReader, SEQUENCES: SequenceReader, TOKENS: TokenReader}
