// A page that turns around a scene of splats. Drawn by Spark on three.js; the scene stands in the page, nothing is fetched from outside.
//
// The page holds two elements: #facts, JSON, and #scene, base64 of gzipped planes in this order: positions float16 (3, n) about
// the middle, where the cameras' origin lies too, quaternions xyzw int16 (4, n), log scales uint8 (3, n) in facts.scales, colour and opacity uint8 (4, n), colours in
// facts.colours, and for each degree of harmonics int8 (3 (2 l + 1), n) in +-facts.sh[l - 1]. compand.report.viewer writes it.
import { PackedSplats, SparkRenderer, SplatMesh, setPackedSplat, utils } from "@sparkjsdev/spark";
import { PerspectiveCamera, Scene, WebGLRenderer } from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";

const facts = JSON.parse(document.getElementById("facts").textContent);
const say = (text, state) => {
  document.getElementById("message").textContent = text;
  document.body.dataset.state = state;
};

async function bytes() {
  const element = document.getElementById("scene");
  const response = await fetch("data:application/octet-stream;base64," + element.textContent);
  element.remove();
  return new Response(response.body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

function half(bits) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const value = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction;
  return bits & 32768 ? -value : value;
}

function unpack(buffer) {
  const n = facts.splats;
  let at = 0;
  const take = (Type, planes) => {
    const out = new Type(buffer, at, planes * n);
    at += out.byteLength;
    return (plane, i) => out[plane * n + i];
  };
  const position = take(Uint16Array, 3), turn = take(Int16Array, 4), scale = take(Uint8Array, 3), colour = take(Uint8Array, 4);
  const harmonics = facts.sh.map((_, l) => take(Int8Array, 3 * (2 * l + 3)));
  const [low, high] = facts.scales, [dark, bright] = facts.colours;
  const encoding = { rgbMin: dark, rgbMax: bright, lnScaleMin: low, lnScaleMax: high };
  facts.sh.forEach((most, l) => Object.assign(encoding, { [`sh${l + 1}Min`]: -most, [`sh${l + 1}Max`]: most }));
  const room = utils.getTextureSize(n).maxSplats, packed = new Uint32Array(4 * room);
  const words = [2, 4, 4], extra = {};
  facts.sh.forEach((_, l) => (extra[`sh${l + 1}`] = new Uint32Array(words[l] * room)));
  const encoders = [utils.encodeSh1Rgb, utils.encodeSh2Rgb, utils.encodeSh3Rgb];
  for (let i = 0; i < n; ++i) {
    const size = (k) => Math.exp(low + ((high - low) * scale(k, i)) / 255);
    const part = (k) => dark + ((bright - dark) * colour(k, i)) / 255;
    const spin = [0, 1, 2, 3].map((k) => turn(k, i) / 32767);
    setPackedSplat(packed, i, half(position(0, i)), half(position(1, i)), half(position(2, i)), size(0), size(1), size(2),
      ...spin, colour(3, i) / 255, part(0), part(1), part(2), encoding);
    harmonics.forEach((value, l) => {
      const all = Float32Array.from({ length: 3 * (2 * l + 3) }, (_, k) => (value(k, i) / 127) * facts.sh[l]);
      encoders[l](extra[`sh${l + 1}`], i, all, encoding);
    });
  }
  return { packedSplats: new PackedSplats({ packedArray: packed, numSplats: n, extra }), splatEncoding: encoding };
}

async function main() {
  const renderer = new WebGLRenderer({ antialias: false, powerPreference: "high-performance" });
  document.body.prepend(renderer.domElement);
  const scene = new Scene();
  const camera = new PerspectiveCamera(facts.fov, 1, facts.near, facts.far);
  camera.up.set(...facts.up);
  camera.position.set(...facts.eye);
  const controls = new OrbitControls(camera, renderer.domElement);
  controls.target.set(...facts.target);
  controls.enableDamping = true;
  controls.autoRotate = !location.hash.includes("still");
  controls.autoRotateSpeed = 0.8;
  controls.zoomToCursor = true;
  const resize = () => {
    renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    renderer.setSize(innerWidth, innerHeight);
    camera.aspect = innerWidth / innerHeight;
    camera.updateProjectionMatrix();
  };
  addEventListener("resize", resize);
  resize();
  const splats = unpack(await bytes());
  // as scenes are trained: 0.3 square pixels added, footprints as far as alpha is above 1/255, harmonics up to degree 3
  const spark = new SparkRenderer({ renderer, preBlurAmount: 0.3, blurAmount: 0, maxStdDev: Math.sqrt(11), minAlpha: 1 / 255,
    splatEncoding: splats.splatEncoding });
  const mesh = new SplatMesh(splats);
  mesh.maxSh = facts.sh.length;
  scene.add(spark, mesh);
  await mesh.initialized;
  const start = camera.position.clone(), goal = controls.target.clone();
  renderer.domElement.addEventListener("pointerdown", () => (controls.autoRotate = false));
  addEventListener("keydown", (event) => {
    if (event.key === " ") controls.autoRotate = !controls.autoRotate;
    else if (event.key === "r") {
      camera.position.copy(start);
      controls.target.copy(goal);
    } else if (event.key === "h") document.getElementById("panel").toggleAttribute("hidden");
    else return;
    event.preventDefault();
  });
  let frames = 0;
  renderer.setAnimationLoop(() => {
    controls.update();
    renderer.render(scene, camera);
    if (++frames === 8) say("", "ready");
  });
}

say("unpacking ...", "loading");
main().catch((error) => {
  console.error(error);
  say(`The scene cannot be shown: ${error.message}`, "failed");
});
