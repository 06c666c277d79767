"""A simple line's `extra_body` on its way out."""

import json

from models.config import Config
from models.formats.simple import simple_input
from models.request import Request
from worker.providers.openai import OpenAI


def test_extra_body_is_put_into_the_body_as_it_is() -> None:
    settings = {"id": "a", "type": "openai", "keys": [{"id": "k", "secret": "sk-xxxxxxxx"}]}
    config = Config.model_validate({"providers": [settings]})
    source = simple_input(b'{"prompt":"a","extra_body":{"new":1,"provider":{"sort":"price"}}}')
    body = json.loads(OpenAI(config.provider("a"), None).build(Request("m", source, "sk-xxxxxxxx")).body)  # type: ignore[arg-type]
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "a"}],
        "new": 1,
        "provider": {"sort": "price"},
    }
