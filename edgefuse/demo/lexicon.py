"""The words of the smart-home grammar: things, wishes about them, and frames around a wish."""

from dataclasses import dataclass

ROOMS = ("kitchen", "bedroom", "living room", "bathroom", "hall", "office", "nursery", "attic")
MINUTES = ("three", "five", "eight", "ten", "twelve", "twenty", "thirty", "ninety")

# What a slot may be called; the last name is the pronoun.
THINGS = {
    "lights": ("the lights", "the {room} lights", "the lamps in the {room}", "them"),
    "heating": ("the heating", "the {room} radiator", "the heating in the {room}", "it"),
    "blinds": ("the blinds", "the {room} blinds", "the shutters in the {room}", "them"),
    "music": ("the music", "the radio", "the jazz station", "it"),
    "door": ("the front door", "the back door", "the garage door", "it"),
    "timer": ("a timer", "the kitchen timer", "an alarm", "one"),
}


@dataclass(frozen=True)
class Intent:
    """One class of the data set.

    Attributes:
        thing: Key in `THINGS` of the thing that the phrases are about.
        phrases: Imperatives, which fit into any frame.
        remarks: Sentences that mean the intent without such an imperative.
        test_remarks: Remarks that only the test split has.
    """

    thing: str
    phrases: tuple[str, ...]
    remarks: tuple[str, ...]
    test_remarks: tuple[str, ...]


INTENTS = {
    "blinds_close": Intent(
        "blinds",
        ("close {blinds}", "shut {blinds}", "pull {blinds} down", "lower {blinds}"),
        (
            "the sun is blinding me through the window",
            "the neighbours can look straight into the {room}",
            "there is too much sunlight in the {room}",
        ),
        ("I don't want people outside to see into the {room}", "the sun shines right into my face"),
    ),
    "blinds_open": Intent(
        "blinds",
        ("open {blinds}", "raise {blinds}", "pull {blinds} up", "roll {blinds} up"),
        (
            "let some daylight into the {room}",
            "I want to look out of the {room} window",
            "I would like to see the sun rise from the {room}",
        ),
        ("the plants in the {room} need sunlight", "I would love to have the morning sun in here"),
    ),
    "door_lock": Intent(
        "door",
        ("lock {door}", "bolt {door}", "make sure {door} gets locked", "secure {door}"),
        (
            "nobody should be able to walk in tonight",
            "we are leaving the house, make it safe",
            "I don't want anyone to get into the house",
        ),
        ("keep burglars out while we are away", "no stranger may come in through {door}"),
    ),
    "door_query": Intent(
        "door",
        (
            "check whether {door} is locked",
            "tell me if {door} is unlocked",
            "find out whether anybody locked {door}",
        ),
        (
            "is {door} locked",
            "did you lock {door}",
            "has {door} been bolted",
            "do you know whether anybody unlocked {door}",
        ),
        ("did anyone forget to lock {door}", "was {door} unlocked the whole time"),
    ),
    "door_unlock": Intent(
        "door",
        ("unlock {door}", "unbolt {door}", "let me in by {door}", "make sure {door} gets unlocked"),
        (
            "my guests are outside {door}, let them in",
            "I am standing outside without my key",
            "the postman has to get into the house",
        ),
        ("my sister is waiting outside {door}, let her in", "I am home and I forgot my key"),
    ),
    "heating_down": Intent(
        "heating",
        ("turn {heating} down", "lower {heating}", "set {heating} a few degrees lower"),
        (
            "I am sweating in the {room}",
            "it is far too hot in the {room}",
            "the {room} feels like a sauna",
        ),
        ("the heat in the {room} is unbearable", "it is boiling in the {room}"),
    ),
    "heating_up": Intent(
        "heating",
        ("turn {heating} up", "raise {heating}", "set {heating} a few degrees higher"),
        (
            "I am freezing in the {room}",
            "it is not warm enough in the {room}",
            "the {room} feels like a fridge",
        ),
        ("I am shivering in the {room}", "my feet are cold"),
    ),
    "light_dim": Intent(
        "lights",
        ("dim {lights}", "turn {lights} down a little", "make {lights} less bright"),
        (
            "a bit less light in the {room} would be nice",
            "it is too bright in the {room} to watch a film",
            "I would like a cosy half light in the {room}",
        ),
        ("not quite so bright in the {room}", "give me softer light in the {room}"),
    ),
    "light_off": Intent(
        "lights",
        ("turn {lights} off", "switch {lights} off", "put {lights} out"),
        (
            "I want it completely dark in the {room}",
            "nobody needs light in the {room} any more",
            "make the {room} pitch dark",
        ),
        ("no light at all in the {room}, I am sleeping", "I want total darkness in the {room}"),
    ),
    "light_on": Intent(
        "lights",
        ("turn {lights} on", "switch {lights} on", "put {lights} on"),
        (
            "it is too dark in the {room}",
            "I can't see a thing in the {room}",
            "I need some light to read in the {room}",
        ),
        ("I can't see my own hands in the {room}", "the {room} is so dark that I might fall"),
    ),
    "music_play": Intent(
        "music",
        ("play {music}", "start {music}", "put {music} on", "turn {music} on"),
        (
            "I would like to hear some jazz in the {room}",
            "it is too quiet in the {room}, entertain me",
            "I am in the mood for a song",
        ),
        ("let me listen to something cheerful", "some tunes for the party in the {room}"),
    ),
    "music_stop": Intent(
        "music",
        ("stop {music}", "pause {music}", "turn {music} off", "switch {music} off"),
        (
            "be quiet, I am on the phone in the {room}",
            "I don't want to hear this song any more",
            "silence in the {room}, the baby is asleep",
        ),
        ("that noise in the {room} has to end", "I have had enough of this song"),
    ),
    "temperature_query": Intent(
        "heating",
        (
            "tell me how warm the {room} is",
            "check the temperature in the {room}",
            "find out how cold the {room} is",
        ),
        (
            "how warm is the {room}",
            "what does the thermometer in the {room} say",
            "is the {room} too hot or too cold",
            "did {heating} make the {room} any warmer",
        ),
        ("is it colder in the {room} than outside", "how many degrees are there in the {room}"),
    ),
    "timer_set": Intent(
        "timer",
        ("set {timer} for {minutes} minutes", "start {timer} for {minutes} minutes"),
        (
            "wake me in {minutes} minutes",
            "tell me when {minutes} minutes are over",
            "the noodles need {minutes} minutes",
        ),
        ("remind me in {minutes} minutes", "the cake must come out in {minutes} minutes"),
    ),
}

OPENERS = ("", "", "hey home, ", "listen, ")
CLOSERS = ("", "", ", please", ", thanks")

FRAMES = (
    "{wish}",
    "could you {wish}",
    "I would like you to {wish}",
    "don't {decoy}, {wish}",
    "do not {decoy} but {wish}",
    "{wish}, don't {decoy}",
    "{decoy}, no wait, {wish}",
    "{decoy}, oh no, I meant {wish}",
    "before you {decoy}, {wish}",
    "{wish} before you {decoy}",
    "I will {decoy} myself, you {wish}",
    "you {wish}, and I will {decoy}",
    "rather than {decoy}, {wish}",
    "{wish} rather than {decoy}",
    "no need to {decoy}, just {wish}",
    "{wish}, no need to {decoy}",
    "{wish} now and {decoy} later",
    "you can {decoy} later, now {wish}",
)
TEST_FRAMES = (
    "I want you to {wish}",
    "please don't {decoy}, {wish} instead",
    "{wish} and please don't {decoy}",
    "{decoy}, sorry, I meant {wish}",
    "{wish} instead, no need to {decoy}",
    "you can {decoy} tomorrow, now {wish}",
    "my son will {decoy}, you {wish}",
)
