// What the parts of Accel share in the browser: the one global object, `accel`. Loaded before them: the host takes files in the order of
// their names.
window.accel = (function () {
    "use strict";
    const TABS = ["txt2img", "img2img"];
    const WAIT = 400;

    // The value of the field at `selector`; empty when there is none.
    function textOf(selector) {
        const field = gradioApp().querySelector(selector);
        return field ? field.value : "";
    }

    // In both tabs: a while after somebody changed something below one of `watched(tab)` (selectors), press the button with the id
    // `button(tab)`, so that Python computes a preview. atOnce: also when the page opens.
    function pressOnChange(button, watched, atOnce) {
        for (const tab of TABS) {
            const place = gradioApp().querySelector(`#tab_${tab}`);
            if (!place) continue;
            let timer;
            const press = () => {
                clearTimeout(timer);
                timer = setTimeout(() => {
                    // Not there while another script is chosen.
                    const found = gradioApp().querySelector(`#${button(tab)}`);
                    if (found) found.click();
                }, WAIT);
            };
            const selectors = watched(tab).join(",");
            for (const event of ["input", "change", "focusout"]) {
                place.addEventListener(event, (e) => e.target.closest && e.target.closest(selectors) && press());
            }
            if (atOnce) press();
        }
    }

    return { textOf, pressOnChange };
})();
