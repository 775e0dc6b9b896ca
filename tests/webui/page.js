// A page without a browser for `test_javascript.py`: runs the files given as arguments in turn and prints what came of it.
const fs = require("fs");
const vm = require("vm");

const fields = {};
const placed = {};
const timers = [];
const loaded = [];
const updated = [];
const listeners = {};
const changed = [];
const clicked = [];
let clock = 0;
const app = {
    querySelector(selector) {
        const tab = selector.match(/^#tab_(txt2img|img2img)$/);
        if (tab) return {};
        if (/_(refresh|listing|refill)$/.test(selector)) return { click: () => clicked.push(selector) };
        return fields[selector] ?? null;
    },
    querySelectorAll: (selectors) => selectors.split(",").flatMap((selector) => placed[selector.trim()] ?? []),
};
const context = vm.createContext({
    gradioApp: () => app,
    onUiLoaded: (act) => loaded.push(act),
    onAfterUiUpdate: (act) => updated.push(act),
    setInterval: (act) => timers.push(act),
    Date: { now: () => clock },
    document: {
        hidden: false,
        createElement: () => ({ addEventListener(event, act) { this[event] = act; } }),
        addEventListener: (event, act) => (listeners[event] ??= []).push(act) },
    updateInput: (field) => changed.push(field.value),
});
context.window = context;
const before = Object.keys(context);
for (const file of process.argv.slice(2)) vm.runInContext(fs.readFileSync(file, "utf8"), context, file);
const globals = Object.keys(context).filter((name) => !before.includes(name));

// Time goes by: what was changed is settled, and told once.
function pass() {
    clicked.length = 0;
    for (let tick = 0; tick < 4; tick++) timers.forEach((act) => act());
    return [...clicked];
}

// What a field shows is another value now, whoever set it: no event tells of it.
function set(selector, field) {
    fields[selector] = field;
    return pass();
}

function setPlaced(selector, ...found) {
    placed[selector] = found;
    return pass();
}

loaded.forEach((act) => act());
const told = { globals, opening: pass() };
told.size = set("#txt2img_width input[type=number]", { value: "640" });
told.resize = set("#txt2img_hr_resize_x input[type=number]", { value: "768" });
told.strength = set("#img2img_denoising_strength input[type=number]", { value: "0.5" });
told.knob = setPlaced("#script_img2img_accel_enabled input", { type: "radio", checked: true, value: "Fast" });
told.unseen = set("#txt2img_prompt textarea", { value: "a dog" });
fields["#script_txt2img_prompttoprompt_edits"] = { offsetParent: {} };
told.chosen = pass();
told.prompt = set("#txt2img_prompt textarea", { value: "a cat" });
told.edit = setPlaced("#tab_txt2img [id^=script_txt2img_prompttoprompt_] input", { type: "radio", checked: true, value: "refine" });
told.nothing = setPlaced("#txt2img_neg_prompt textarea", { value: "a dog" });
placed["#txt2img_width input"] = [];
// A LoRA in a comment of the prompt, where the host takes comments out and where it does not.
const lorasIn = (opts) => {
    context.opts = opts;
    fields["#txt2img_prompt textarea"] = { value: "a cat # <lora:LCM-x:1>\n<lora:other:1>" };
    const found = JSON.parse(context.accel.sizes("txt2img", [""])[0]).loras;
    fields["#txt2img_prompt textarea"] = { value: "a cat" };
    delete context.opts;
    return found;
};
told.comments = [lorasIn({ enable_prompt_comments: true }), lorasIn({ enable_prompt_comments: false })];
// While somebody drags or writes, nothing is asked.
told.unsettled = [];
for (const width of ["1", "2", "3", "4"]) {
    clicked.length = 0;
    fields["#txt2img_width input[type=number]"] = { value: width };
    timers.forEach((act) => act());
    told.unsettled.push(...clicked);
}
// A click on a word, on a line of its own.
const box = { value: "+ hat\n", focus: () => {}, setSelectionRange: () => {} };
fields["#script_txt2img_prompttoprompt_edits textarea"] = box;
const chip = { dataset: { accelEdit: "cat -> " }, closest: () => ({ id: "tab_txt2img" }) };
const happens = (event, target) => listeners[event].forEach((act) => act({ target }));
happens("click", { closest: () => chip });
happens("click", { closest: () => null });
told.begun = [...changed];
// The presets' names.
const radios = ["Quality", "Fast"].map((value) => ({ value, parentElement: { dataset: {} } }));
placed["#script_txt2img_accel_preset input"] = radios;
const classes = new Set();
const buttons = [];
fields["#script_txt2img_accel_merging_ratio"] = {
    classList: { add: (name) => classes.add(name) },
    appendChild: (button) => buttons.push(button),
    querySelector: (kind) => (kind.includes("number") ? ratio : null),
    querySelectorAll: () => [],
};
const ratio = { value: "0.4" };
fields["#script_txt2img_accel_strip .accel-told"] = {
    dataset: { told: '{"gains": {"Fast": "2.0x"}, "idle": ["merging.ratio", "gone.x"], "changed": {"merging.ratio": 0.25}}' },
};
updated.forEach((act) => act());
updated.forEach((act) => act());
changed.length = 0;
buttons.forEach((button) => button.click({ stopPropagation: () => {}, preventDefault: () => {} }));
told.knobs = { classes: [...classes], buttons: buttons.length, reset: [...changed] };
told.gains = radios.map((radio) => radio.parentElement.dataset.accelGain);
// Settings of the host, and its first checkpoint, which may be loading still.
pass();
context.opts = { sd_model_checkpoint: "a" };
told.checkpoint = [pass(), pass()];
clock += 60000;
told.loaded = pass();
const strip = fields["#script_txt2img_accel_strip .accel-told"].dataset;
const before_waiting = strip.told;
strip.told = before_waiting.replace("{", '{"waiting": true, ');
updated.forEach((act) => act());
told.waiting = [pass()];
clock += 60000;
told.waiting.push(pass(), pass());
// Models of another family: the knobs are filled for them, once.
told.families = [];
for (const family of ["sd1", "sdxl", "sdxl", "sd1"]) {
    clicked.length = 0;
    strip.told = before_waiting.replace("{", `{"family": "${family}", `);
    updated.forEach((act) => act());
    told.families.push(clicked.filter((one) => one.endsWith("_refill")));
}
strip.told = before_waiting;
updated.forEach((act) => act());
pass();
clock += 60000;
told.waiting.push(pass());
// PNG info below a picture, without and with what the job tells below that.
const report = "Accel report: Accel Fast - 1.2x est.; 4 steps; 4 U-Net calls in 0.91 s (6 of 8 row evaluations).";
const shown = [{}, { data: `Steps: 4, ${report}, Version: 1` }];
placed["#html_info_txt2img p"] = [{ childNodes: shown }];
updated.forEach((act) => act());
told.untold = shown[1].data;
fields["#html_log_txt2img .comments"] = { textContent: "Accel Fast: 1.2x est., 4 steps, 4 U-Net calls in 1.82 s; another picture." };
updated.forEach((act) => act());
told.another = shown[1].data;
const line = "Accel Fast: 1.2x est., 4 steps, 4 U-Net calls in 0.91 s (6 of 8 row evaluations); TokenMerging: merging on 3 of 7 layers.";
fields["#html_log_txt2img .comments"] = { textContent: line };
updated.forEach((act) => act());
told.once = shown[1].data;
// What was touched last, of two controls.
const within = (id) => ({ closest: (selector) => (selector === `#${id}` ? {} : null) });
told.touched = [];
for (const [event, id] of [["change", "knob"], ["keydown", "preset"], ["click", "paste"]]) {
    happens(event, within(id));
    told.touched.push(vm.runInContext("['knob', 'preset'].map(accel.isTouched)", context));
}
for (const place of Object.keys(fields)) delete fields[place];
const empty = vm.runInContext("[accel.sizes('txt2img', ['', 1, 2]), accel.prompt('img2img', ['', 'x'])]", context);
Object.assign(fields, {
    "#txt2img_width input[type=number]": { value: "640" },
    "#txt2img_height input[type=number]": { value: "0" },
    "#txt2img_sampling input:not([type=radio]), #txt2img_sampling input:checked": { value: "Euler" },
    "#txt2img_prompt textarea": { value: "a cat <lora:LCM-x:0.7> <lora:other:1>" },
    "#txt2img_hr-checkbox input": { checked: true },
    "#txt2img_batch_count input[type=number]": { value: "2" },
    "#txt2img_batch_size input[type=number]": { value: "3" },
    "#txt2img_hr_scale input[type=number]": { value: "1.5" },
});
// Folds with a switch in their titles.
const titled = (id, title) => ({ id, querySelector: () => ({ textContent: title }) });
placed["#tab_txt2img .input-accordion"] = [titled("script_txt2img_accel_enabled", " Accel"), titled("input-accordion-7", " Spectrum Integrated")];
fields["#input-accordion-7-checkbox input"] = { checked: true };
fields["#img2img_tab_resize_by"] = { style: { display: "block" } };
fields["#img2img_denoising_strength input[type=number]"] = { value: "0.5" };
placed["#tab_txt2img #txtimg_hr_finalres .resolution"] = [{ textContent: "640x0" }, { textContent: "960x64" }];
placed["#img2img_scale_resolution_preview .resolution"] = [{ textContent: "512x512" }, { textContent: "768x640 " }];
clicked.length = 0;
vm.runInContext("accel.ownChanged('txt2img')", context);
told.own = [...clicked];
told.other = vm.runInContext(
    "['Fast', 'mine', 'refused: x', '<b>'].map((preset) => accel.nameFor(preset, 'typed', ['Fast']))",
    context
);
told.empty = empty;
told.picture = vm.runInContext("JSON.parse(accel.sizes('img2img', ['', 1])[0])", context);
told.filled = vm.runInContext("[accel.sizes('txt2img', ['', 1, 2]), accel.prompt('txt2img', ['', 'x'])]", context);
const edits = () => vm.runInContext("JSON.parse(accel.sizes('txt2img', ['', 1])[0]).edits", context);
told.edits = [edits()];
fields["#script_txt2img_prompttoprompt_edits"] = { offsetParent: {} };
told.edits.push(edits());
// A language in which a label's translation is the label itself: the host writes it all the same.
let written = 0;
const watchers = [];
context.MutationObserver = class {
    constructor(act) { Object.assign(this, { act, records: [] }); watchers.push(this); }
    observe() {}
    takeRecords() { return this.records.splice(0); }
};
context.localization = { Ratio: "Ratio" };
context.processNode = (node) => { written += 1; watchers.forEach((watcher) => watcher.records.push({ target: node })); };
fields["#script_txt2img_accel_enabled"] = {};
loaded.forEach((act) => act());
const change = { target: { textContent: "Ratio" } };
watchers.forEach((watcher) => watcher.records.push(change));
written = 0;
for (let round = 0; round < 50; round++) watchers.forEach((watcher) => watcher.records.length && watcher.act(watcher.takeRecords()));
told.translated = { watchers: watchers.length, written };
console.log(JSON.stringify(told));
