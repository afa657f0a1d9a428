"""An institution's own two processes in place of Flower's: the SuperNode (``node``) and the SuperExec (``executor``)."""
