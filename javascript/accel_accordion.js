// Tells Python when something changed that the preview of the Accel accordion depends on. Python computes, this only asks.
(function () {
    "use strict";
    const NUMBERS = ["width", "height", "steps"];
    const OTHERS = ["hr", "hr_scale", "hires_steps", "cfg_scale", "sampling", "prompt"];

    function numberOf(id) {
        const text = accel.textOf(`#${id} input[type=number]`);
        return text === "" ? null : Number(text);
    }

    function hires(tab) {
        const box = gradioApp().querySelector(`#${tab}_hr-checkbox input`);
        return box && box.checked ? numberOf(`${tab}_hr_scale`) : 0;
    }

    // Names only: some tell of models that are run in few steps.
    function loras(tab) {
        return [...accel.textOf(`#${tab}_prompt textarea`).matchAll(/<lora:([^:>]+)/g)].map((tag) => tag[1]);
    }

    // Called by gradio with the values of all inputs; the first is the place for the sizes.
    accel.sizes = function (tab, values) {
        const sizes = {
            hires: hires(tab),
            hires_steps: numberOf(`${tab}_hires_steps`),
            guidance: numberOf(`${tab}_cfg_scale`),
            sampler: accel.textOf(`#${tab}_sampling input`),
            loras: loras(tab),
        };
        for (const name of NUMBERS) sizes[name] = numberOf(`${tab}_${name}`);
        return [JSON.stringify(sizes), ...values.slice(1)];
    };

    onUiLoaded(() => {
        accel.pressOnChange(
            (tab) => `script_${tab}_accel_refresh`,
            (tab) => [`#script_${tab}_accel_enabled`, ...[...NUMBERS, ...OTHERS].map((name) => `#${tab}_${name}`)],
            true
        );
    });
})();
