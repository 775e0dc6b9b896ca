// Tells Python when something changed that the preview of the Accel accordion depends on. Python computes, this only asks.
(function () {
    "use strict";
    const TABS = ["txt2img", "img2img"];
    const WAIT = 400;
    const timers = {};

    function numberOf(id) {
        const input = gradioApp().querySelector(`#${id} input[type=number]`);
        return input ? Number(input.value) : null;
    }

    function textOf(selector) {
        const field = gradioApp().querySelector(selector);
        return field ? field.value : "";
    }

    function hires(tab) {
        const box = gradioApp().querySelector(`#${tab}_hr-checkbox input`);
        return box && box.checked ? numberOf(`${tab}_hr_scale`) : 0;
    }

    // Names only: some tell of models that are run in few steps.
    function loras(tab) {
        return [...textOf(`#${tab}_prompt textarea`).matchAll(/<lora:([^:>]+)/g)].map((tag) => tag[1]);
    }

    // Called by gradio with the values of all inputs; the first is the place for the sizes.
    window.accelSizes = function (tab, values) {
        const sizes = {
            hires: hires(tab),
            hires_steps: numberOf(`${tab}_hires_steps`),
            guidance: numberOf(`${tab}_cfg_scale`),
            sampler: textOf(`#${tab}_sampling input`),
            loras: loras(tab),
        };
        for (const name of ["width", "height", "steps"]) sizes[name] = numberOf(`${tab}_${name}`);
        return [JSON.stringify(sizes), ...values.slice(1)];
    };

    function ask(tab) {
        clearTimeout(timers[tab]);
        timers[tab] = setTimeout(() => {
            const button = gradioApp().querySelector(`#script_${tab}_accel_refresh`);
            if (button) button.click();
        }, WAIT);
    }

    function matters(target, tab) {
        const ours = `#script_${tab}_accel_enabled`;
        const theirs = ["width", "height", "steps", "hr", "hr_scale", "hires_steps", "cfg_scale", "sampling", "prompt"];
        return target.closest && target.closest([ours, ...theirs.map((name) => `#${tab}_${name}`)].join(","));
    }

    onUiLoaded(() => {
        for (const tab of TABS) {
            const place = gradioApp().querySelector(`#tab_${tab}`);
            if (!place) continue;
            for (const event of ["input", "change", "focusout"]) {
                place.addEventListener(event, (e) => matters(e.target, tab) && ask(tab));
            }
            ask(tab);
        }
    });
})();
