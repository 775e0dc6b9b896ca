// Tells Python when the prompt or the edits of the Prompt-to-Prompt script changed, so that it shows their words.
(function () {
    "use strict";
    // Called by gradio with the values of all inputs; the first is the place for the prompt.
    accel.prompt = function (tab, values) {
        return [accel.textOf(`#${tab}_prompt textarea`), ...values.slice(1)];
    };

    onUiLoaded(() => {
        accel.pressOnChange(
            (tab) => `script_${tab}_prompttoprompt_refresh`,
            (tab) => [`#script_${tab}_prompttoprompt_edits`, `#script_${tab}_prompttoprompt_kind`, `#${tab}_prompt`, "#script_list"],
            false
        );
    });
})();
