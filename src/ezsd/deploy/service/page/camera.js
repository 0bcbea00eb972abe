// Images from the camera: live where the browser allows it (https or localhost), else the camera app of a phone.

const $ = (id) => document.getElementById(id);
let stream = null;

export function setUpCamera(onImage, onProblem) {
  $("camera-open").onclick = () => open(onProblem);
  $("camera-close").onclick = close;
  $("camera-file").onchange = ({ target }) => {
    if (target.files.length) onImage(target.files[0]);
    target.value = "";
  };
  $("shoot").onclick = async () => {
    const video = $("video");
    const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    close();
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
    onImage(new File([blob], `camera ${new Date().toTimeString().slice(0, 8)}.jpg`, { type: "image/jpeg" }));
  };
}

async function open(onProblem) {
  if (!navigator.mediaDevices?.getUserMedia) {
    $("camera-file").click();
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    onProblem(`The camera cannot be used: ${error.message}. Allow it in the browser, or choose images.`);
    return;
  }
  $("video").srcObject = stream;
  $("camera").hidden = false;
  $("shoot").focus();
}

function close() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  $("camera").hidden = true;
  $("camera-open").focus();
}
