// Which microphone, and what the browser does to its sound. Pure.

// What the browser can do to the sound: the names in `Settings`, with what holds until the user chooses.
export const DEFAULTS = {
  echoCancellation: false, // the page plays nothing; on phones this also switches to narrow telephone sound
  noiseSuppression: false, // removes consonants with the noise; the model was trained on noisy speech
  autoGainControl: true,   // a microphone across the table is too quiet otherwise, and gain changes no word
};

// The microphones of a list of `enumerateDevices`: [{id, label}]. Without permission they have neither id nor name.
// "default" and "communications" are Chromium's other names for two that are in the list too.
export function microphones(devices) {
  const aliases = ["", "default", "communications"];
  return devices
    .filter(({ kind, deviceId }) => kind === "audioinput" && !aliases.includes(deviceId))
    .map(({ deviceId, label }) => ({ id: deviceId, label }));
}

// The one of them that the user has chosen: by its id, or by its name where the browser has given it another id. null:
// it is not there.
export function chosenMicrophone(list, { id, label }) {
  return list.find((one) => one.id === id) ?? list.find((one) => label && one.label === label) ?? null;
}

// What to ask `getUserMedia` for. `id`: the chosen microphone, "" for the browser's default.
export function audioConstraints(id, settings) {
  const wanted = Object.fromEntries(
    Object.entries(DEFAULTS).map(([name, value]) => [name, settings.get(name, value)]),
  );
  return { channelCount: { ideal: 1 }, ...wanted, ...(id && { deviceId: { exact: id } }) };
}
