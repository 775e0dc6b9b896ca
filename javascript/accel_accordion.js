// The Accel accordion: tells Python when something changed that its preview depends on, and shows what Python made of it.
(function () {
    "use strict";
    const TABS = ["txt2img", "img2img"];
    const NUMBERS = ["width", "height", "steps"];
    // What Python's preview depends on besides: settings of the host. It has a checkpoint there as soon as that is loaded.
    const OPTIONS = [
        "sd_model_checkpoint", "sd_checkpoint_hash", "img2img_fix_steps",
        "token_merging_ratio", "token_merging_ratio_img2img", "token_merging_ratio_hr",
    ];
    // Until a first checkpoint is loaded Python is asked again after so many milliseconds.
    const AGAIN = 5000;

    function numberOf(id) {
        const text = accel.textOf(`#${id} input[type=number]`);
        return text === "" ? null : Number(text);
    }

    function hires(tab) {
        const box = gradioApp().querySelector(`#${tab}_hr-checkbox input`);
        return box && box.checked ? numberOf(`${tab}_hr_scale`) || 1 : 0;
    }

    // As they stand in the prompt: some tell of models that are run in few steps. Those in comments count for nothing.
    function loras(tab) {
        const text = accel.textOf(`#${tab}_prompt textarea`);
        const prompt = (window.opts || {}).enable_prompt_comments ? text.replace(/#[^\n]*/g, "") : text;
        return prompt.match(/<lora:[^>]+>/g) || [];
    }

    // The size that "Resize by" makes of img2img's picture, as the host shows it; null where it does not count.
    function resized(tab) {
        const chosen = gradioApp().querySelector(`#${tab}_tab_resize_by`);
        const sizes = gradioApp().querySelectorAll(`#${tab}_scale_resolution_preview .resolution`);
        if (!chosen || chosen.style.display === "none" || !sizes.length) return null;
        return sizes[sizes.length - 1].textContent.trim();
    }

    // The size of the hires pass, as the host shows it: hosts round in ways of their own. Null where it shows none.
    function hiresSize(tab) {
        const sizes = gradioApp().querySelectorAll(`#tab_${tab} #txtimg_hr_finalres .resolution`);
        return sizes.length ? sizes[sizes.length - 1].textContent.trim() : null;
    }

    // Whether Forge Neo's Spectrum is on, which forecasts steps itself. Its fold has no name but its title.
    function spectrum(tab) {
        const titled = (fold) => /^\s*spectrum\b/i.test((fold.querySelector(".label-wrap") || fold).textContent);
        const found = [...gradioApp().querySelectorAll(`#tab_${tab} .input-accordion`)].find(titled);
        const box = found && gradioApp().querySelector(`#${found.id}-checkbox input`);
        return Boolean(box && box.checked);
    }

    // What stands below the gallery; another text after every job.
    function log(tab) {
        const found = gradioApp().querySelector(`#html_log_${tab}`);
        return found ? found.textContent.trim() : "";
    }

    function sizes(tab) {
        const edits = gradioApp().querySelector(`#script_${tab}_prompttoprompt_edits`);
        const told = {
            tab,
            hires: hires(tab),
            hires_width: numberOf(`${tab}_hr_resize_x`),
            hires_height: numberOf(`${tab}_hr_resize_y`),
            hires_size: hiresSize(tab),
            hires_steps: numberOf(`${tab}_hires_steps`),
            hires_guidance: numberOf(`${tab}_hr_cfg`),
            hires_sampler: accel.textOf("#hr_sampler input"),
            denoising: tab === "img2img" ? numberOf("img2img_denoising_strength") : null,
            size: resized(tab),
            guidance: numberOf(`${tab}_cfg_scale`),
            sampler: accel.textOf(`#${tab}_sampling input:not([type=radio]), #${tab}_sampling input:checked`),
            loras: loras(tab),
            edits: Boolean(edits && edits.offsetParent),
            spectrum: spectrum(tab),
            ran: log(tab) !== "",
        };
        for (const name of NUMBERS) told[name] = numberOf(`${tab}_${name}`);
        return JSON.stringify(told);
    }

    // Called by gradio with the values of all inputs; the first is the place for the sizes.
    accel.sizes = (tab, values) => [sizes(tab), ...values.slice(1)];

    // The knob `name` of a tab, as an element.
    function knob(tab, name) {
        return gradioApp().querySelector(`#script_${tab}_accel_${name.replace(".", "_")}`);
    }

    // Set the knob `at` as if somebody did.
    function put(at, value) {
        const box = at.querySelector("input[type=checkbox]");
        const radios = [...at.querySelectorAll("input[type=radio]")];
        if (box) {
            if (box.checked !== value) box.click();
        } else if (radios.length) {
            const found = radios.find((radio) => radio.value === String(value));
            if (found) found.click();
        } else {
            const field = at.querySelector("input[type=number]");
            field.value = value;
            updateInput(field);
        }
    }

    // A button on the knob `at` that sets it to what the preset has.
    function resetButton(at, value) {
        const button = document.createElement("button");
        button.type = "button";
        button.className = "accel-reset";
        button.textContent = "\u21ba";
        button.title = `${accel.translated("Back to the preset's value:")} ${value}`;
        button.addEventListener("click", (event) => {
            // It stands in a label, which would take the click, too.
            event.preventDefault();
            event.stopPropagation();
            put(at, value);
        });
        (at.querySelector("[data-testid=block-info]") || at).appendChild(button);
    }

    const marked = {};
    const waits = {};
    // The family of models that each tab's knobs were filled for; a page opens with those of SD1.
    const families = {};

    function fillFor(tab, family) {
        if (!family || family === (families[tab] || "sd1")) return;
        families[tab] = family;
        const button = gradioApp().querySelector(`#script_${tab}_accel_refill`);
        if (button) button.click();
    }

    // What changes when the host, and not somebody on this page, is what makes another preview.
    function host(tab) {
        const options = OPTIONS.map((name) => (window.opts || {})[name]);
        return JSON.stringify([...options, waits[tab] ? Math.floor(Date.now() / AGAIN) : 0]);
    }

    // Mark presets with how many times as fast each would be, and knobs that have no effect, or differ from the preset, as Python told.
    function mark(tab) {
        const found = gradioApp().querySelector(`#script_${tab}_accel_strip .accel-told`);
        if (!found) return;
        const { gains, idle, changed, waiting, family } = JSON.parse(found.dataset.told);
        waits[tab] = Boolean(waiting);
        fillFor(tab, family);
        for (const input of gradioApp().querySelectorAll(`#script_${tab}_accel_preset input`)) {
            const gain = gains[input.value];
            input.parentElement.dataset.accelGain = gain ? `~${gain}` : "";
        }
        if (marked[tab] === found.dataset.told) return;
        marked[tab] = found.dataset.told;
        for (const at of gradioApp().querySelectorAll(`#script_${tab}_accel_fold_advanced .accel-idle`)) at.classList.remove("accel-idle");
        for (const button of gradioApp().querySelectorAll(`#script_${tab}_accel_fold_advanced .accel-reset`)) button.remove();
        for (const at of idle.map((name) => knob(tab, name))) if (at) at.classList.add("accel-idle");
        for (const [name, value] of Object.entries(changed)) {
            const at = knob(tab, name);
            if (at) resetButton(at, value);
        }
    }

    // An own preset was saved or deleted in `tab`, which shows it at once; the other one lists it, too.
    accel.ownChanged = function (tab) {
        for (const name of TABS) {
            const found = gradioApp().querySelector(`#script_${name}_accel_${name === tab ? "refresh" : "listing"}`);
            if (found) found.click();
        }
    };

    accel.isSure = (name) => !name || confirm(`${accel.translated("Delete this preset?")} ${name}`);

    // The name of an own preset stands in the field for names when it is chosen.
    accel.nameFor = (preset, name, builtIn) => (builtIn.includes(preset) || !/^[\p{L}\p{N}_][\p{L}\p{N}_ -]*$/u.test(preset) ? name : preset);

    // The host translates what is added to the page. Labels of ours change in place, too, when a page that opens fills itself.
    function translateChanges(tab) {
        const at = knob(tab, "enabled");
        if (!at || typeof processNode !== "function" || !Object.keys(window.localization || {}).length) return;
        processNode(at);
        const watcher = new MutationObserver((changes) => {
            changes.forEach((change) => processNode(change.target));
            // What it wrote itself is no change: a text whose translation is the same text would be written for ever.
            watcher.takeRecords();
        });
        watcher.observe(at, { subtree: true, characterData: true });
    }

    // Below a picture the host shows its PNG info, and then what the job tells. An account that is in both is read in the second, alone.
    const TOLD_BELOW = /, (Accel report|Accel A\/B result|P2P result): ([^,\n]*)/;
    const plainWords = (text) => text.replace(/[-:;,"']/g, "").replace(/\s+/g, " ").trim();

    // Of several pictures each has its own account. Its beginning, up to the seconds that it took, says whose it is.
    function toldBelow(found, log) {
        if (!found || found[1] !== "Accel report") return Boolean(found);
        const report = plainWords(found[2]);
        const upToSeconds = report.match(/^.*? in [\d.]+ s\b/);
        return plainWords(log.textContent).includes(upToSeconds ? upToSeconds[0] : report);
    }

    function tellOnce(tab) {
        const log = gradioApp().querySelector(`#html_log_${tab} .comments`);
        if (!log) return;
        for (const paragraph of gradioApp().querySelectorAll(`#html_info_${tab} p`)) {
            for (const text of paragraph.childNodes) {
                const found = (text.data || "").match(TOLD_BELOW);
                if (toldBelow(found, log)) text.data = text.data.replace(found[0], "");
            }
        }
    }

    onAfterUiUpdate(() => TABS.forEach((tab) => (mark(tab), tellOnce(tab))));

    onUiLoaded(() => {
        TABS.forEach(translateChanges);
        accel.pressOnChange(
            (tab) => `script_${tab}_accel_refresh`,
            (tab) => sizes(tab) + log(tab) + host(tab) + accel.standing([`#script_${tab}_accel_enabled`, `#script_${tab}_accel_enabled-checkbox`]),
            true
        );
    });
})();
