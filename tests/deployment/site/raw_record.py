"""Lines of a site's record as a fedtl without checks would write them."""


def note(home, what, **content):
    book = home.record.book
    book.create()
    with book.write(home.record.silo) as chain:
        chain.append(what, **content)
