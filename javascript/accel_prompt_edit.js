// Tells Python when the prompt or the edits of the Prompt-to-Prompt script changed, so that it shows their words.
(function () {
    "use strict";
    const TABS = ["txt2img", "img2img"];
    const WAIT = 400;
    const timers = {};

    // Called by gradio with the values of all inputs; the first is the place for the prompt.
    window.accelPrompt = function (tab, values) {
        const box = gradioApp().querySelector(`#${tab}_prompt textarea`);
        return [box ? box.value : "", ...values.slice(1)];
    };

    function ask(tab) {
        clearTimeout(timers[tab]);
        timers[tab] = setTimeout(() => {
            // Not there while another script is chosen.
            const button = gradioApp().querySelector(`#script_${tab}_prompttoprompt_refresh`);
            if (button) button.click();
        }, WAIT);
    }

    function matters(target, tab) {
        const ours = ["edits", "kind"].map((name) => `#script_${tab}_prompttoprompt_${name}`);
        return target.closest && target.closest([...ours, `#${tab}_prompt`, "#script_list"].join(","));
    }

    onUiLoaded(() => {
        for (const tab of TABS) {
            const place = gradioApp().querySelector(`#tab_${tab}`);
            if (!place) continue;
            for (const event of ["input", "change", "focusout"]) {
                place.addEventListener(event, (e) => matters(e.target, tab) && ask(tab));
            }
        }
    });
})();
