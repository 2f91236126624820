// Runs an exported file with onnxruntime-node and decodes its outputs by the rules of export/README.md.
//
//   condinst-inspect model.onnx --json > manifest.json
//   node decode.mjs model.onnx manifest.json image.ppm > detections.json
//
// Images are binary PPM (P6), so that no image library is needed. A mask is COCO's uncompressed RLE: lengths of runs of
// 0 and 1 in turn, in column-major order. The family `mmdet` is decoded; `adelaidet` needs the steps that
// export/README.md names for it.

import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-node";

const STRIDE = 4; // of the probabilities, in network pixels

function readPpm(path) {
  const bytes = readFileSync(path);
  const [head, width, height] = /^P6\s+(\d+)\s+(\d+)\s+255\s/.exec(bytes.subarray(0, 64).toString("latin1"));
  return { width: Number(width), height: Number(height), rgb: bytes.subarray(head.length) };
}

/** Weights of Pillow's antialiased bilinear filter along one axis, as integers of 22 bits. */
function filterWeights(size, out) {
  const scale = size / out;
  const support = Math.max(scale, 1);
  return Array.from({ length: out }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const last = Math.min(Math.trunc(center + support + 0.5), size);
    const weights = [];
    for (let j = first; j < last; j++) weights.push(Math.max(1 - Math.abs((j - center + 0.5) / support), 0));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((w) => Math.trunc((w / sum) * (1 << 22) + 0.5)) };
  });
}

/** Resize one axis. `at(row, place)` is the index of a value along the axis, `rows` the number of other values. */
function resizeAxis(input, output, size, out, rows, inputAt, outputAt) {
  filterWeights(size, out).forEach(({ first, weights }, i) => {
    for (let row = 0; row < rows; row++) {
      let sum = 1 << 21;
      for (let j = 0; j < weights.length; j++) sum += weights[j] * input[inputAt(row, first + j)];
      output[outputAt(row, i)] = sum >> 22;
    }
  });
}

/** RGB image -> the network's inputs: resized as Pillow does it, padded at the bottom and right, channels first. */
function networkInputs(image, { short_side, long_side, pad_divisor }) {
  const { height, width, rgb } = image;
  const scale = Math.min(short_side / Math.min(height, width), long_side / Math.max(height, width));
  const [h, w] = [height, width].map((side) => Math.max(1, Math.floor(side * scale + 0.5)));
  const [H, W] = [h, w].map((side) => Math.ceil(side / pad_divisor) * pad_divisor);
  const images = new Uint8Array(3 * H * W);
  const wide = new Uint8Array(height * w * 3); // columns resized
  const byColumn = (n) => (row, x) => (Math.floor(row / 3) * n + x) * 3 + (row % 3);
  resizeAxis(rgb, wide, width, w, height * 3, byColumn(width), byColumn(w));
  const planes = (row, y) => ((row % 3) * H + y) * W + Math.floor(row / 3);
  resizeAxis(wide, images, height, h, w * 3, (row, y) => y * w * 3 + row, planes);
  return {
    resized: [h, w],
    feeds: {
      images: new ort.Tensor("uint8", images, [1, 3, H, W]),
      image_sizes: new ort.Tensor("int32", Int32Array.from([h, w]), [1, 2]),
    },
  };
}

/** Where each pixel of the original lies among `n` probabilities: aligned bilinear x4, crop and resize in one step. */
function places(n, resized, original) {
  return Array.from({ length: original }, (_, o) => {
    const pixel = Math.min(Math.max(((o + 0.5) * resized) / original - 0.5, 0), resized - 1);
    const place = Math.min(Math.max((pixel - STRIDE / 2) / STRIDE, 0), n - 1);
    const first = Math.min(Math.floor(place), n - 2);
    return { first, share: place - first };
  });
}

/** Logits (h, w) -> probabilities (2h, 2w): aligned bilinear x2, then the sigmoid. */
function probabilities(logits, h, w) {
  const output = new Float32Array(4 * h * w);
  const pair = (i) => [Math.max(i - 1, 0) >> 1, Math.max(i, 0) >> 1]; // output i lies between these two, or on both
  for (let y = 0; y < 2 * h; y++) {
    const [top, bottom] = pair(y);
    for (let x = 0; x < 2 * w; x++) {
      const [left, right] = pair(x);
      const sum =
        logits[top * w + left] + logits[top * w + right] + logits[bottom * w + left] + logits[bottom * w + right];
      output[y * 2 * w + x] = 1 / (1 + Math.exp(-sum / 4));
    }
  }
  return output;
}

/** The mask of one instance as lengths of runs, column by column; a pixel belongs to it above 0.5. */
function runLengths(p, width, rows, columns) {
  const counts = [0];
  let value = false;
  for (const { first: x, share: sx } of columns) {
    for (const { first: y, share: sy } of rows) {
      const i = y * width + x;
      const upper = p[i] + (p[i + 1] - p[i]) * sx;
      const lower = p[i + width] + (p[i + width + 1] - p[i + width]) * sx;
      if (upper + (lower - upper) * sy > 0.5 !== value) {
        value = !value;
        counts.push(0);
      }
      counts[counts.length - 1]++;
    }
  }
  return counts;
}

function decode(outputs, image, resized, classNames) {
  const [, , h, w] = outputs.mask_logits.dims;
  const [rows, columns] = [places(2 * h, resized[0], image.height), places(2 * w, resized[1], image.width)];
  const [scaleX, scaleY] = [resized[1] / image.width, resized[0] / image.height];
  return Array.from({ length: outputs.num_detections.data[0] }, (_, k) => {
    const [x1, y1, x2, y2] = outputs.boxes.data.subarray(4 * k, 4 * k + 4);
    const p = probabilities(outputs.mask_logits.data.subarray(k * h * w, (k + 1) * h * w), h, w);
    return {
      name: classNames[outputs.labels.data[k]],
      score: outputs.scores.data[k],
      box: [x1 / scaleX, y1 / scaleY, x2 / scaleX, y2 / scaleY],
      segmentation: { size: [image.height, image.width], counts: runLengths(p, 2 * w, rows, columns) },
    };
  });
}

const [model, manifestPath, imagePath] = process.argv.slice(2);
const manifest = JSON.parse(readFileSync(manifestPath, "utf8")).manifest;
const image = readPpm(imagePath);
const { resized, feeds } = networkInputs(image, manifest.preprocessing);
const session = await ort.InferenceSession.create(model);
const outputs = await session.run(feeds);
process.stdout.write(JSON.stringify(decode(outputs, image, resized, manifest.class_names)) + "\n");
