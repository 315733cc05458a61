"""Final-channel text of a Harmony transcript (first version)."""
import re
from dataclasses import dataclass
@dataclass
class FinalText:
    text: str
def final_text(t):
    m = t.rfind("<|channel|>final<|message|>")
    return FinalText(t[m+27:]) if m>=0 else None
