"""The OpenAI client against an endpoint's /openai/v1 routes."""

import asyncio

import openai
import pytest

import harness

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(target):
    with openai.OpenAI(api_key=target.key, max_retries=0,
                       base_url=f"{target.base_url}/{target.endpoint}/openai/v1") as client:
        yield client


def test_chat_completion(client):
    answer = client.chat.completions.create(model="m", messages=MESSAGES)
    assert answer.choices[0].message.role == "assistant"
    assert answer.model == "m"


def test_chat_stream_has_every_token_in_order(client):
    stream = client.chat.completions.create(
        model="m", messages=MESSAGES, stream=True,
        extra_body={"mock_stream": 20, "mock_stream_interval": 10})
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text.split() == " ".join(f"token {index}" for index in range(20)).split()


def test_completion_stream_has_every_token_in_order(client):
    stream = client.completions.create(model="m", prompt="Hello", stream=True,
                                       extra_body={"mock_stream": 5})
    text = "".join(chunk.choices[0].text for chunk in stream)
    assert text.split() == " ".join(f"token {index}" for index in range(5)).split()


def test_models(client):
    assert [model.id for model in client.models.list()] == ["podgate-sim"]


def test_embeddings(client):
    answer = client.embeddings.create(model="m", input="Hello", encoding_format="float")
    assert answer.data[0].embedding == [0.25, -0.5, 0.001]


def test_asyncio_stream(target):
    async def work():
        async with openai.AsyncOpenAI(
                api_key=target.key, max_retries=0,
                base_url=f"{target.base_url}/{target.endpoint}/openai/v1") as client:
            stream = await client.chat.completions.create(
                model="m", messages=MESSAGES, stream=True, extra_body={"mock_stream": 8})
            return [chunk.choices[0].delta.content async for chunk in stream]
    assert len(asyncio.run(work())) == 8


def test_wrong_key_is_an_authentication_error(target):
    client = openai.OpenAI(api_key=harness.make_key("main").text, max_retries=0,
                           base_url=f"{target.base_url}/{target.endpoint}/openai/v1")
    with client, pytest.raises(openai.AuthenticationError):
        client.models.list()
