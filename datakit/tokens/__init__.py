"""Images as tokens, packed: codecs, blocks, a folder of them read at random, statistics, the file set of SeiT."""
