"""Read a mark out of published weights, as an opponent who knows everything but the key (this project).

The attacker has the published model and knows how a mark is embedded (:mod:`aiao_core.method.objective`). With some methods
they compare it with another model: their own fine-tune or noised copy, or another marked copy of the same source. Each method
(:mod:`aiao_core.attacks.inversion.methods`) returns a :class:`aiao_core.attacks.inversion.reader.Reading`: for each layer a
guess of its trigger and of the signs that it calls up. The attacker ranks guesses by figures of their own. No function here
takes a key, except those of :mod:`aiao_core.attacks.inversion.scoring`, which says how much of a reading is right.
"""
