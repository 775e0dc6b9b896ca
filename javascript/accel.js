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

    function hires(tab) {
        const box = gradioApp().querySelector(`#${tab}_hr-checkbox input`);
        return box && box.checked ? numberOf(`${tab}_hr_scale`) : 0;
    }

    // Called by gradio with the values of all inputs; the first is the place for the sizes.
    window.accelSizes = function (tab, values) {
        const sizes = {hires: hires(tab), guidance: numberOf(`${tab}_cfg_scale`)};
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
        const theirs = [`#${tab}_width`, `#${tab}_height`, `#${tab}_steps`, `#${tab}_hr`, `#${tab}_hr_scale`, `#${tab}_cfg_scale`];
        return target.closest && target.closest([ours, ...theirs].join(","));
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
