"""Captions that speak of human speech, and captions that do not, in the manner of Auto-ACD and of class labels."""

import pytest

from stav2a_jax.data.prepare.captions import sentence
from stav2a_jax.data.prepare.speech import speech_word, word_list

SPEECH = (
    "A man speaks while a train horn blares in the background.",
    "A woman is talking and a dog barks in a small room.",
    "People are having a conversation as dishes clatter in a busy restaurant.",
    "A child laughs and then says something to her mother.",
    "The crowd murmurs while rain falls on the stadium roof.",
    "A male voice is heard over the hum of a vacuum cleaner.",
    "A commentator describes the race as engines roar past.",
    "Someone whispers close to the microphone.",
    "An announcer's voice echoes through the train station while people walk by.",
    "A helicopter hovers overhead as a reporter gives an interview on a windy field.",
    "Two women chat by the pool, water splashing around them.",
    "A lecture hall, where a teacher explains something and chalk scratches on a board.",
    "A man narrates a wildlife video with birds chirping in the forest.",
    "Children babble and chatter in a playground.",
    "An older man gives a speech, interrupted by applause.",
    "No music plays at first, and then a man starts speaking.",
    "Without a pause, a guy keeps talking over the sound of hammering.",
    "There is no wind, people talk quietly.",
    "A woman\N{RIGHT SINGLE QUOTATION MARK}s voice gives instructions as a sewing machine runs.",
    "A girl tells a story while a cat purrs on her lap.",
    "Dialogue from a television is audible in the next room.",
    "female speech, woman speaking",
    "male speech, man speaking",
    "people whispering",
    "child speech, kid speaking",
)

NO_SPEECH = (
    "A dog barks loudly in a backyard while birds chirp.",
    "The steam train whistles and chugs past the platform.",
    "A man hammers a nail into a wooden board in a workshop.",
    "Rain falls steadily on a tin roof with distant thunder.",
    "A woman plays the violin in a quiet room.",
    "A choir of voices sings in a large church.",
    "A female singer performs a ballad, her voice accompanied by a piano.",
    "Waves crash on the shore and a brook babbles over stones.",
    "Sparrows chatter in the hedge beside a road.",
    "The engine's voice rises as the motorbike accelerates.",
    "Loudspeakers crackle and a guitar is plugged in.",
    "A crowd cheers and applauds in a stadium.",
    "A baby cries in a small bedroom.",
    "Children laugh and splash in a swimming pool.",
    "A man screams on a roller coaster.",
    "Nobody speaks; only the wind is heard in the mountains.",
    "The machine hums without anyone talking.",
    "Water drips in a cave, no human speech is heard.",
    "A man doesn't say anything while he chops wood.",
    "The drummer plays a talking drum at a festival.",
    "A toilet flushes in a bathroom, echoing off the tiles.",
    "A telephone rings twice and stops.",
    "So to speak, the oldest bell of the town tolls.",
    "people eating crisps",
    "parrot talking",
    "singing choir",
    "dog barking",
    "police radio crackling with static",
)


@pytest.mark.parametrize("caption", SPEECH)
def test_a_caption_with_speech_is_recognised(caption):
    assert speech_word(caption) is not None


@pytest.mark.parametrize("caption", NO_SPEECH)
def test_a_caption_without_speech_is_left_alone(caption):
    assert speech_word(caption) is None, speech_word(caption)


def test_class_labels_are_judged_as_the_sentences_they_become():
    assert speech_word(sentence("male speech, man speaking")) == "speech"
    assert speech_word(sentence("playing acoustic guitar")) is None


def test_the_first_word_that_counts_is_named():
    assert speech_word("A MAN TALKS, then a woman speaks") == "talks"
    assert speech_word("") is None


def test_every_section_of_the_word_list_is_used_and_none_contradicts_another():
    words = word_list()
    assert set(words) == {"speech", "with people", "people", "singing", "not speech", "negation"}
    assert not words["speech"] & words["with people"]
    assert all(word == word.lower().strip() for section in words.values() for word in section)
