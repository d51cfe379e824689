"""From raw videos to records for training: what ``stav2a prepare`` does (docs/data.md).

source -> probe -> captions -> speech -> onsets -> align -> features -> a tensorflow-datasets folder. Every step works
on chunks of clips; what a chunk of a step gives is one file, written whole, with a key of all that it depends on.
"""
