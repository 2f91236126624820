// Sends an image to a model of condinst-triton-repo and decodes the answer. It needs Node.js 18 and no packages.
//
//   node ask_server.mjs http://localhost:8000 image.jpg > detections.json
//
// The server speaks KServe's v2 protocol; an answer is JSON, and behind it the outputs as bytes, in order. Masks are
// COCO's compressed RLE, decoded here to COCO's uncompressed RLE: lengths of runs of 0 and 1 in turn, column by column.

import { readFileSync } from "node:fs";

const LENGTH = "Inference-Header-Content-Length"; // bytes of the JSON part
const OUTPUTS = ["BOXES", "SCORES", "LABELS", "IMAGE_SIZE", "RLE_COUNTS"];
const ARRAYS = { FP32: Float32Array, INT32: Int32Array, UINT8: Uint8Array };

/** The body of a request: JSON, then the image with its length in front. */
function requestBody(image, parameters) {
  const json = JSON.stringify({
    inputs: [{ name: "IMAGE", datatype: "BYTES", shape: [1, 1], parameters: { binary_data_size: 4 + image.length } }],
    outputs: OUTPUTS.map((name) => ({ name, parameters: { binary_data: true } })),
    parameters,
  });
  const length = Buffer.alloc(4);
  length.writeUInt32LE(image.length);
  return { length: Buffer.byteLength(json), body: Buffer.concat([Buffer.from(json), length, image]) };
}

/** Texts of a BYTES output; each has its length in front. */
function texts(data) {
  const found = [];
  for (let place = 0; place < data.length; ) {
    const end = place + 4 + data.readUInt32LE(place);
    found.push(data.subarray(place + 4, end));
    place = end;
  }
  return found;
}

/** Outputs of an answer by their names: typed arrays, or lists of bytes. */
function outputsOf(body, jsonLength) {
  let place = jsonLength;
  const found = {};
  for (const { name, datatype, parameters } of JSON.parse(body.subarray(0, jsonLength)).outputs) {
    const data = body.subarray(place, (place += parameters.binary_data_size));
    const aligned = () => new Uint8Array(data).buffer; // a typed array cannot begin anywhere in another one
    found[name] = datatype === "BYTES" ? texts(data) : new ARRAYS[datatype](aligned());
  }
  return found;
}

/** COCO's compressed RLE: five bits a character, differences to the run before the last one. */
function runLengths(counts) {
  const runs = [];
  for (let place = 0; place < counts.length; ) {
    let value = 0;
    let shift = 0;
    let bits;
    do {
      bits = counts[place++] - 48;
      value += (bits & 31) * 2 ** shift; // not <<: a run of a large image has more than 31 bits
      shift += 5;
    } while (bits & 32);
    if (bits & 16) value -= 2 ** shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

async function answer(url, options) {
  const response = await fetch(url, options);
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  return response;
}

async function detect(server, image, parameters = {}) {
  const model = `${server}/v2/models/condinst`;
  const config = await (await answer(`${model}/config`)).json();
  const classNames = JSON.parse(config.parameters.condinst_manifest.string_value).class_names;
  const { length, body } = requestBody(image, parameters);
  const headers = { [LENGTH]: String(length), "Content-Type": "application/octet-stream" };
  const response = await answer(`${model}/infer`, { method: "POST", body, headers });
  const content = Buffer.from(await response.arrayBuffer());
  const found = outputsOf(content, Number(response.headers.get(LENGTH)));
  return found.RLE_COUNTS.map((counts, i) => ({
    name: classNames[found.LABELS[i]],
    score: found.SCORES[i],
    box: Array.from(found.BOXES.subarray(4 * i, 4 * i + 4)), // x1, y1, x2, y2 in pixels
    segmentation: { size: Array.from(found.IMAGE_SIZE), counts: runLengths(counts) },
  }));
}

const [server, path, parameters = "{}"] = process.argv.slice(2);
const detections = await detect(server, readFileSync(path), JSON.parse(parameters));
process.stdout.write(JSON.stringify(detections) + "\n");
