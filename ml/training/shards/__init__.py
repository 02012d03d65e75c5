"""Training corpus on disk: shards that are written once, read sequentially and shuffled well.

`build_corpus` (``past corpus build``) writes it, `Corpus` opens it, `CorpusLoader` goes through it.
"""
