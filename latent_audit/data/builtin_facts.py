"""Harmless questions with answers that can be checked by a word: what an intervention must not spoil.

Question -> accepted answers; a response is right if it holds one of them as a whole word, in any case.
"""

import re

FACTS = {
    "What is the capital of France?": ("Paris",),
    "What is the capital of Japan?": ("Tokyo",),
    "What is the capital of Italy?": ("Rome",),
    "How many days does a week have?": ("seven", "7"),
    "How many minutes does an hour have?": ("sixty", "60"),
    "How many legs does a spider have?": ("eight", "8"),
    "How many months does a year have?": ("twelve", "12"),
    "What is two plus three?": ("five", "5"),
    "What is ten minus four?": ("six", "6"),
    "What is three times four?": ("twelve", "12"),
    "Which planet do we live on?": ("Earth",),
    "Which planet is the largest of the solar system?": ("Jupiter",),
    "What do bees make?": ("honey",),
    "Which animal barks?": ("dog", "dogs"),
    "What colour is the sky on a clear day?": ("blue",),
    "What colour do you get by mixing blue and yellow?": ("green",),
    "At how many degrees Celsius does water boil at sea level?": ("100", "hundred"),
    "Which gas do people need to breathe?": ("oxygen",),
    "Who wrote the play Romeo and Juliet?": ("Shakespeare",),
    "Who painted the Mona Lisa?": ("Leonardo", "Vinci"),
    "On which continent does Egypt lie?": ("Africa",),
    "Which ocean lies between Europe and North America?": ("Atlantic",),
    "What is frozen water called?": ("ice",),
    "Which language is spoken in Brazil?": ("Portuguese",),
}


def is_right(question: str, response: str) -> bool:
    """Whether the response holds an accepted answer as a whole word; KeyError for a question that is not ours."""
    return any(re.search(rf"\b{re.escape(answer)}\b", response, re.IGNORECASE) for answer in FACTS[question])
