// Tells Python when the prompt or the edits of the Prompt-to-Prompt script changed, so that it shows their words.
(function () {
    "use strict";
    function told(tab) {
        const count = (name) => Number(accel.textOf(`#${tab}_batch_${name} input[type=number]`)) || 1;
        const styles = [...gradioApp().querySelectorAll(`#${tab}_styles .token > span`)].map((style) => style.textContent.trim());
        return JSON.stringify({ prompt: accel.textOf(`#${tab}_prompt textarea`), seeds: count("count") * count("size"), styles });
    }

    // A click on what begins an edit writes it into the box, on a line of its own.
    function begin(tab, text) {
        const field = gradioApp().querySelector(`#script_${tab}_prompttoprompt_edits textarea`);
        if (!field) return;
        const before = field.value.trimEnd();
        field.value = before ? `${before}\n${text}` : text;
        updateInput(field);
        field.focus();
        field.setSelectionRange(field.value.length, field.value.length);
    }

    // Called by gradio with the values of all inputs; the first is the place for the prompt.
    accel.prompt = function (tab, values) {
        return [told(tab), ...values.slice(1)];
    };

    // Null while another script is chosen: what would be shown is not there.
    function state(tab) {
        const edits = gradioApp().querySelector(`#script_${tab}_prompttoprompt_edits`);
        if (!edits || !edits.offsetParent) return null;
        return told(tab) + accel.standing([`#tab_${tab} [id^=script_${tab}_prompttoprompt_]`]);
    }

    onUiLoaded(() => {
        accel.pressOnChange(
            (tab) => `script_${tab}_prompttoprompt_refresh`,
            state,
            true
        );
        document.addEventListener("click", (event) => {
            const chip = event.target.closest && event.target.closest("[data-accel-edit]");
            const place = chip && chip.closest("#tab_txt2img, #tab_img2img");
            if (place) begin(place.id.replace("tab_", ""), chip.dataset.accelEdit);
        });
    });
})();
