// What the parts of Accel share in the browser: the one global object, `accel`. Loaded before them: the host takes files in the order of
// their names.
window.accel = (function () {
    "use strict";
    const TABS = ["txt2img", "img2img"];
    const TICK = 400;

    // The value of the field at `selector`; empty when there is none.
    function textOf(selector) {
        const field = gradioApp().querySelector(selector);
        return field ? field.value : "";
    }

    // What stands in all fields below `places` (selectors), as one text.
    function standing(places) {
        const fields = places.map((place) => `${place} input, ${place} textarea`).join(",");
        const told = [...gradioApp().querySelectorAll(fields)].map((field) =>
            field.type === "radio" || field.type === "checkbox" ? field.checked : field.value
        );
        return JSON.stringify(told);
    }

    // In both tabs: when what `state(tab)` tells differs from before, however it came to that, and stays as it is for a moment, press the
    // button with the id `button(tab)`, so that Python computes a preview. Values that the host or others set ("Send to", presets, pasted
    // PNG info) fire no event of the page, so it is looked at. Null: there is nothing to preview now. atOnce: also press when the page opens.
    function pressOnChange(button, state, atOnce) {
        for (const tab of TABS) {
            if (!gradioApp().querySelector(`#tab_${tab}`)) continue;
            let shown = atOnce ? null : state(tab);
            let before = null;
            setInterval(() => {
                if (document.hidden) return;
                const now = state(tab);
                if (now === null) return;
                const settled = now === before;
                before = now;
                const found = settled && now !== shown && gradioApp().querySelector(`#${button(tab)}`);
                if (!found) return;
                shown = now;
                found.click();
            }, TICK);
        }
    }

    // `text` in the language of the page, where the host has it.
    function translated(text) {
        return (window.localization && window.localization[text]) || text;
    }

    // What was touched last, by hand or by a script that does as a hand does.
    let touched = null;
    for (const event of ["keydown", "click", "input", "change"]) {
        document.addEventListener(event, (told) => (touched = told.target), true);
    }

    // Whether that is the control with this id. Gradio 4 tells of an `input` on radio buttons whenever their value is set, by presets and
    // pasted PNG info, too.
    function isTouched(id) {
        return Boolean(touched && touched.closest && touched.closest(`#${id}`));
    }

    return { textOf, standing, translated, pressOnChange, isTouched };
})();
