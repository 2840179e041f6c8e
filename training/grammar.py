"""The grammar of the English sentences that the bundled demo checkpoint understands.

`sentence(rng)` draws one sentence. A template names slots in braces; a slot is a list of phrases or a function of the
random generator. Numbers are spelled out, so that the text contains exactly the spoken words.
"""

import random
from collections.abc import Callable

ONES = "one two three four five six seven eight nine".split()
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()

WORDS: dict[str, list[str]] = {
    "room": "kitchen;bathroom;bedroom;living room;hall;garage;garden;office;attic;cellar;dining room".split(";"),
    "device": "light;lamp;fan;heater;radio;television;speaker;window;door;curtain;alarm;oven;washing machine".split(
        ";"
    ),
    "switch": "light;lamp;fan;heater;radio;television;speaker;oven;washing machine;coffee machine".split(";"),
    "cover": "window;door;curtain;blind;gate".split(";"),
    "colour": "red;green;blue;yellow;white;orange;purple;pink;brown;grey;black".split(";"),
    "name": "Anna Peter Maria John Susan David Laura Thomas Emma Daniel Sophie Martin Julia Robert Alice Henry".split(),
    "day": "Monday;Tuesday;Wednesday;Thursday;Friday;Saturday;Sunday".split(";"),
    "month": "January;February;March;April;May;June;July;August;September;October;November;December".split(";"),
    "city": "London;Paris;Berlin;Madrid;Rome;Vienna;Dublin;Oslo;Boston;Chicago".split(";"),
    "event": "meeting;party;concert;lesson;exam;interview;dinner;appointment;holiday;train;flight".split(";"),
    "thing": "key;book;phone;bag;coat;letter;ticket;umbrella;laptop;bottle;cup;picture;camera".split(";"),
    "place": "table;chair;shelf;sofa;desk;floor;bed;cupboard;drawer;box".split(";"),
    "food": "bread;milk;butter;cheese;coffee;tea;sugar;rice;apples;bananas;eggs;chicken;soup;salad;tomatoes".split(";"),
    "weather": "sunny;cloudy;rainy;windy;cold;warm;foggy;hot;stormy".split(";"),
    "song": "music;jazz;the news;a song;some piano music;the next song;my favourite album".split(";"),
    "when": "today;tomorrow;tonight;this morning;this afternoon;this evening;next week;every day".split(";"),
    "unit": "seconds;minutes;hours".split(";"),
    "task": "call {name};buy {food};water the plants;feed the cat;walk the dog;wash the car;pay the rent;"
    "clean the {room};write to {name};lock the door;take out the rubbish".split(";"),
    "quality": "old;new;big;small;broken;clean;heavy;open;empty".split(";"),
}

TEMPLATES = (
    "Turn on the {room} {switch}.;Turn off the {room} {switch}.;Switch on the {switch} in the {room}.;"
    "Switch off the {switch} in the {room}.;Please open the {room} {cover}.;Please close the {room} {cover}.;"
    "Open the {cover}.;Close the {cover} in the {room}.;Set the {room} light to {colour}.;"
    "Make the {switch} {colour}.;Set the {switch} to {number} percent.;Set the heater to {number} degrees.;"
    "Is the {device} in the {room} on?;The {device} in the {room} is {quality}.;"
    "The {event} is on {date}.;The {event} is at {time}.;The {event} is on {day} at {time}.;"
    "The {event} in {city} starts at {time}.;When is the {event} with {name}?;"
    "Wake me up at {time}.;Set an alarm for {time}.;Set a timer for {number} {unit}.;"
    "Remind me to {task} at {time}.;Remind me to {task} {when}.;Please {task} {when}.;Do not forget to {task}.;"
    "I need to {task}.;{name} wants to {task} {when}.;Call {name} at {time}.;Send a message to {name}.;"
    "Tell {name} that the {event} is at {time}.;Ask {name} about the {event}.;"
    "My birthday is on {date}.;{name} was born on {date}.;Today is {date}.;It is {time} now.;"
    "The {thing} is on the {place}.;Where is the {colour} {thing}?;Put the {thing} on the {place}.;"
    "The {colour} {thing} is in the {room}.;{name} has a {colour} {thing}.;I lost my {thing} in the {room}.;"
    "{name} and {name} live in {city}.;I am going to {city} on {day}.;The train to {city} leaves at {time}.;"
    "The flight to {city} takes {number} {unit}.;What is the weather in {city}?;It is {weather} in {city} {when}.;"
    "It will be {weather} {when}.;Buy {number} {food}.;We need {food} and {food}.;Add {food} to the shopping list.;"
    "I would like {food} with {food}.;Play {song}.;Play {song} in the {room}.;Stop the music.;"
    "Turn the volume up.;Turn the volume down to {number}.;My number is {digits}.;The code is {digits}.;"
    "Page {number} of the book.;The bus number {number} stops here.;There are {number} people in the {room}.;"
    "How many {food} do we have?;What time is it?;Good morning {name}.;Good night {name}.;Thank you very much.;"
    "Yes please.;No thank you.;See you {when}."
).split(";")


def number(rng: random.Random) -> str:
    """An integer from two to ninety-nine, in words and without a hyphen."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(ONES[1:])
    if kind < 0.6:
        return rng.choice(TEENS)
    tens = rng.choice(TENS)
    return tens if rng.random() < 0.3 else f"{tens} {rng.choice(ONES)}"


def time_of_day(rng: random.Random) -> str:
    """A time of day, such as "half past seven", "six thirty" or "nine o'clock"."""
    hour = rng.choice(ONES + TEENS[:3])
    return rng.choice(
        [
            f"half past {hour}",
            f"a quarter to {hour}",
            f"a quarter past {hour}",
            f"{hour} o'clock",
            f"{hour} thirty",
            f"{hour} fifteen",
            f"{hour} forty five",
            f"{rng.choice(['five', 'ten', 'twenty'])} past {hour}",
        ]
    )


def date(rng: random.Random) -> str:
    """A date, such as "Monday the tenth of May" or "the tenth of May"."""
    ordinal = rng.choice([*ORDINALS, *(f"twenty {o}" for o in ORDINALS[:9]), "thirtieth", "thirty first"])
    day = f"the {ordinal} of {rng.choice(WORDS['month'])}"
    return f"{rng.choice(WORDS['day'])} {day}" if rng.random() < 0.6 else day


def digits(rng: random.Random) -> str:
    """Three to five digits, one word each."""
    return " ".join(rng.choice(["zero", *ONES]) for _ in range(rng.randint(3, 5)))


GENERATORS: dict[str, Callable[[random.Random], str]] = {
    "number": number,
    "time": time_of_day,
    "date": date,
    "digits": digits,
}


def sentence(rng: random.Random) -> str:
    """One random sentence, with a capital letter and a full stop or question mark."""
    text = rng.choice(TEMPLATES)
    while "{" in text:
        head, _, rest = text.partition("{")
        slot, _, tail = rest.partition("}")
        filled = GENERATORS[slot](rng) if slot in GENERATORS else rng.choice(WORDS[slot])
        text = head + filled + tail
    return text


def vocabulary() -> list[str]:
    """The words of 20,000 random sentences, in lowercase, sorted."""
    rng = random.Random(0)
    words = {word.strip(".?").lower() for _ in range(20_000) for word in sentence(rng).split()}
    return sorted(words)
