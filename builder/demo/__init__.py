"""The demo corpus: talking faces rendered offline from one public-domain photograph and a voice model.

`speakers` describes the eight speakers, `utterances` lists the clips and samples everything that varies between them,
`face` renders frames, `voice` synthesizes speech, `writer` encodes the clips and writes the corpus.
"""
