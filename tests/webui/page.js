// A page without a browser for `test_javascript.py`: runs the files given as arguments in turn and prints what came of it.
const fs = require("fs");
const vm = require("vm");

const fields = {};
const listeners = {};
const timers = [];
const loaded = [];
const clicked = [];
const app = {
    querySelector(selector) {
        const tab = selector.match(/^#tab_(txt2img|img2img)$/);
        if (tab) return { addEventListener: (event, act) => (listeners[`${tab[1]} ${event}`] ??= []).push(act) };
        if (selector.endsWith("_refresh")) return { click: () => clicked.push(selector) };
        return fields[selector] ?? null;
    },
};
const context = vm.createContext({
    gradioApp: () => app,
    onUiLoaded: (act) => loaded.push(act),
    setTimeout: (act, wait) => timers.push({ act, wait }) - 1,
    clearTimeout: (number) => delete timers[number],
});
context.window = context;
const before = Object.keys(context);
for (const file of process.argv.slice(2)) vm.runInContext(fs.readFileSync(file, "utf8"), context, file);
const globals = Object.keys(context).filter((name) => !before.includes(name));

// Time goes by: what waits is done, and told.
function pass() {
    clicked.length = 0;
    for (const timer of timers.splice(0)) if (timer) timer.act();
    return [...clicked];
}

// Somebody changes what `ids` name, a thing and what it stands in.
function change(tab, event, ids) {
    const target = { closest: (selectors) => selectors.split(",").find((selector) => ids.includes(selector)) };
    for (const act of listeners[`${tab} ${event}`] ?? []) act({ target });
}

loaded.forEach((act) => act());
const told = { globals, opening: pass() };
change("txt2img", "input", ["#txt2img_width"]);
change("txt2img", "change", ["#txt2img_width"]);
told.size = pass();
change("img2img", "change", ["#script_img2img_accel_enabled"]);
told.knob = pass();
change("txt2img", "input", ["#txt2img_prompt"]);
told.prompt = pass();
change("txt2img", "change", ["#script_txt2img_prompttoprompt_kind"]);
told.edit = pass();
change("txt2img", "input", ["#txt2img_neg_prompt", "#img2img_width"]);
told.nothing = pass();
const empty = vm.runInContext("[accel.sizes('txt2img', ['', 1, 2]), accel.prompt('img2img', ['', 'x'])]", context);
Object.assign(fields, {
    "#txt2img_width input[type=number]": { value: "640" },
    "#txt2img_height input[type=number]": { value: "0" },
    "#txt2img_sampling input": { value: "Euler" },
    "#txt2img_prompt textarea": { value: "a cat <lora:LCM-x:0.7> <lora:other:1>" },
    "#txt2img_hr-checkbox input": { checked: true },
    "#txt2img_hr_scale input[type=number]": { value: "1.5" },
});
told.empty = empty;
told.filled = vm.runInContext("[accel.sizes('txt2img', ['', 1, 2]), accel.prompt('txt2img', ['', 'x'])]", context);
console.log(JSON.stringify(told));
