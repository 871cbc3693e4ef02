"""What goes over the wire."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from carl.model import Explanation

MOST_TEXTS = 256
MOST_CHARACTERS = 20_000

TextInput = Annotated[str, Field(max_length=MOST_CHARACTERS)]
Texts = Annotated[list[TextInput], Field(min_length=1, max_length=MOST_TEXTS)]


class Request(BaseModel):
    """A body without unknown fields."""

    model_config = ConfigDict(extra="forbid")


class AffectRequest(Request):
    """Texts to score."""

    input: TextInput | Texts = Field(
        description="One text, or up to 256.", examples=["no complaints, it just works"]
    )


class Affect(BaseModel):
    """What a text expresses; -1 is unpleasant or calm, 1 pleasant or excited."""

    valence: float = Field(ge=-1, le=1)
    arousal: float = Field(ge=-1, le=1)
    valence_low: float | None = Field(None, description="The interval holds nine of ten human ratings.")
    valence_high: float | None = None
    arousal_low: float | None = None
    arousal_high: float | None = None
    emotion: str | None = None
    emotion_probability: float | None = Field(None, ge=0, le=1)


class AffectResponse(BaseModel):
    """One score per text, in their order."""

    model: str
    data: list[Affect]


class EmbeddingRequest(BaseModel):
    """OpenAI's request for embeddings; ``user`` is taken and not used."""

    model_config = ConfigDict(extra="forbid")
    input: TextInput | Texts = Field(description="One text, or up to 256.")
    model: str = Field("carl-minilm", description="The model that is served, whatever stands here.")
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


class Embedding(BaseModel):
    """One embedding: numbers, or their little-endian float32 bytes in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """OpenAI's answer."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class ExplainRequest(Request):
    """A text to explain."""

    input: TextInput


class Token(BaseModel):
    """A piece of the text and its signed contributions."""

    token: str
    start: int
    end: int
    valence: float
    arousal: float


class ExplainResponse(BaseModel):
    """Which tokens carry a text's affect."""

    text: str
    valence: float
    arousal: float
    tokens: list[Token]
    truncated: bool

    @classmethod
    def of(cls, explanation: Explanation) -> "ExplainResponse":
        """From the model's own."""
        tokens = [
            Token(token=t.token, start=t.start, end=t.end, valence=t.valence, arousal=t.arousal)
            for t in explanation.tokens
        ]
        return cls(
            text=explanation.text,
            valence=explanation.valence,
            arousal=explanation.arousal,
            tokens=tokens,
            truncated=explanation.truncated,
        )


class Problem(BaseModel):
    """Why there is no answer."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """OpenAI's form of an error."""

    error: Problem


def responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The errors of an endpoint, for OpenAPI."""
    return {code: {"model": ErrorResponse} for code in codes}
