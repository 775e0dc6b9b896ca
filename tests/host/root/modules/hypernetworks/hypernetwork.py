def apply_hypernetworks(hypernetworks, context, layer=None):
    """(input of to_k, input of to_v). A network of the double is a function of the context."""
    keys = values = context
    for network in hypernetworks:
        keys, values = network(keys), network(values)
    return keys, values
