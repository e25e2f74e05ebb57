"""HTTP server for an ONNX model with sparse layers: ``python server.py FOLDER``, a folder with the files
``model.onnx`` and ``tokenizer.json``. It needs onnxruntime, tokenizers and onnxruntime-ep-sparse.

    curl localhost:8000/predict --data '{"inputs": ["one text", ["a question", "its context"]]}'

The answer is ``{"outputs": [{NAME: VALUES, ...}, ...]}``: the outputs of the model for each text or pair of texts.
What is wrong with a request is a status of 4xx and ``{"error": MESSAGE}``; what the model cannot compute is 500.
"""

import argparse
import json
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

import onnxruntime_ep_sparse as sparse

INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # that a tokenizer makes
MOST_BYTES = 1 << 20  # of a request
EXPECTED = '{"inputs": [...]} is expected, with at least one text or pair of texts'


class RequestError(Exception):
    """A request that cannot be answered: the HTTP status, and what is wrong."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Predictor:
    """A model and its tokenizer. Texts are truncated to ``max_length`` tokens; 0 ``threads`` is one for each core."""

    def __init__(self, folder: Path, max_length: int, threads: int) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length)
        options = sparse.session_options()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        self.inputs = [node.name for node in self.session.get_inputs()]
        self.outputs = [node.name for node in self.session.get_outputs()]
        if unknown := [name for name in self.inputs if name not in INPUTS]:
            raise SystemExit(f"{folder / 'model.onnx'} takes {unknown[0]}; expected: {', '.join(INPUTS)}")

    def predict(self, text: str | tuple[str, str]) -> dict[str, Any]:
        """The outputs for one text or pair; one at a time, so that nothing is padded."""
        encoded = self.tokenizer.encode_batch([text])[0]
        if not encoded.ids:
            raise RequestError(400, "a text has no tokens")
        given = dict(zip(INPUTS, (encoded.ids, encoded.attention_mask, encoded.type_ids), strict=True))
        feed = {name: np.array([given[name]], np.int64) for name in self.inputs}
        values = self.session.run(self.outputs, feed)
        return {name: value[0].tolist() for name, value in zip(self.outputs, values, strict=True)}


def read_texts(body: bytes) -> list[str | tuple[str, str]]:
    """The texts and pairs of a request."""
    try:
        given = json.loads(body)
    except ValueError as error:
        raise RequestError(400, f"the request is not JSON: {error}; {EXPECTED}") from error
    texts = given.get("inputs") if isinstance(given, dict) else None
    if not isinstance(texts, list) or not texts:
        raise RequestError(400, EXPECTED)
    read: list[str | tuple[str, str]] = []
    for text in texts:
        if isinstance(text, str):
            read.append(text)
        elif isinstance(text, list) and len(text) == 2 and all(isinstance(part, str) for part in text):
            read.append((text[0], text[1]))
        else:
            raise RequestError(400, f"inputs has {json.dumps(text)[:80]}; {EXPECTED}")
    return read


def make_handler(predictor: Predictor) -> type[BaseHTTPRequestHandler]:
    """A handler of requests for the model."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 60  # seconds that a client may take for its request

        def do_POST(self) -> None:
            try:
                texts = read_texts(self.read_body())
                status, answer = 200, {"outputs": [predictor.predict(text) for text in texts]}
            except RequestError as error:
                status, answer = error.status, {"error": str(error)}
            except Exception as error:  # of the engine, whose errors have no common class
                traceback.print_exc()
                status, answer = 500, {"error": f"the model failed: {error}"}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def read_body(self) -> bytes:
            if self.path != "/predict":
                raise RequestError(404, f"there is no {self.path}; POST /predict is expected")
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal():
                raise RequestError(411, "the request has no Content-Length")
            if int(length) > MOST_BYTES:
                raise RequestError(413, f"the request has {length} bytes; at most {MOST_BYTES} are read")
            return self.rfile.read(int(length))

    return Handler


def main() -> None:
    """Load the model and serve until the process is stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: one that is free")
    parser.add_argument("--max_length", type=int, default=384, help="tokens of a text or pair")
    parser.add_argument("--threads", type=int, default=0, help="of a run; 0: one for each core")
    args = parser.parse_args()
    predictor = Predictor(args.folder, args.max_length, args.threads)
    with ThreadingHTTPServer((args.host, args.port), make_handler(predictor)) as server:
        print(f"http://{args.host}:{server.server_port}/predict", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
